"""`penstock serve` as a node of a cluster."""

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.cluster.hosts import Host
from tests.support.cluster.process import NodeProcess
from tests.support.deadline import until
from tests.support.processes import answers

STARTED = " listens on "
START_LIMIT_S = 120.0
"""Most of it for a machine so busy that leases end while a broker starts."""


class BrokerNode(NodeProcess):
    """One broker, with its folder and address, which stay over restarts."""

    def __init__(
        self, node_id: int, host: Host, directory: Path, metadata: str, settings: Mapping[str, str]
    ) -> None:
        super().__init__(directory / f"broker-{node_id}.log")
        self.node_id = node_id
        self.host = host
        self.bootstrap = host.bootstrap
        self.data_directory = directory / f"data-{node_id}"
        self.settings = dict(settings)
        """Of the next start."""
        self._metadata = metadata
        self._begin = 0

    def command(self) -> list[str]:
        """The command line."""
        settings = [part for key, value in self.settings.items() for part in ("--set", f"{key}={value}")]
        return [
            *(*self.host.prefix, str(Path(sys.executable).with_name("penstock")), "serve"),
            *("--data-dir", str(self.data_directory), "--listen", self.bootstrap),
            *("--node-id", str(self.node_id), "--cluster", self._metadata, *settings),
        ]

    def start(self, *, wait: bool = True) -> None:
        """Start, or start again on the same folder and address; on return it answers, if `wait` is set."""
        self._begin = self.log_size()
        self.run(self.command())
        if wait:
            self.await_ready()

    def await_ready(self) -> None:
        """Wait until the start line of this start is there, and a request is answered."""

        def ready() -> bool:
            self.check_alive()
            return STARTED in self.log_text(self._begin) and answers(self.bootstrap)

        until(ready, f"broker {self.node_id} ready", limit_s=START_LIMIT_S)

    def empty_disk(self) -> None:
        """All its files are gone, as on a new machine; it must be dead."""
        assert not self.is_running
        for path in self.data_directory.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
