"""Clusters that are hurt: each test has one of its own, and the logs of all its processes are shown when the test fails."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.cluster.cluster import Cluster, running_cluster
from tests.support.cluster.hosts import Hosts

StartCluster = Callable[..., Cluster]


@pytest.fixture
def start_cluster(tmp_path: Path) -> Iterator[StartCluster]:
    """Starts a cluster with the settings that it is called with; killed at the end of the test."""
    started: list[Cluster] = []
    with ExitStack() as stack:

        def start(*, count: int = 3, network: Hosts | None = None, **settings: str) -> Cluster:
            named = {name.replace("_", "."): value for name, value in settings.items()}
            cluster = stack.enter_context(running_cluster(tmp_path, named, count=count, network=network))
            started.append(cluster)
            return cluster

        yield start
        for cluster in started:
            print(cluster.log_tails())
