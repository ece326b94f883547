"""The implementations that each contract suite is run against."""

from pathlib import Path

import pytest
from tests.support.file_systems import FILE_SYSTEMS, Disk
from tests.support.metadata_stores import STORES, StorePlace
from tests.support.networks import NETWORKS
from trio.abc import Clock

from penstock.runtime.network import Network


@pytest.fixture(params=sorted(STORES))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> StorePlace:
    return STORES[request.param](tmp_path)


@pytest.fixture
def clock(place: StorePlace) -> Clock:
    """Asked for by tests in which time passes: pytest-trio runs them on it."""
    return place.clock


@pytest.fixture(params=sorted(FILE_SYSTEMS))
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    return Disk(FILE_SYSTEMS[request.param](), tmp_path)


@pytest.fixture(params=sorted(NETWORKS))
def network(request: pytest.FixtureRequest) -> Network:
    return NETWORKS[request.param]()
