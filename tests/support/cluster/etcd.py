"""etcd as a node of a cluster: one member, killed, frozen and started again on its folder and port."""

import json
import urllib.error
import urllib.request
from pathlib import Path

from bench.ports import free_ports
from tests.support.cluster.hosts import Host
from tests.support.cluster.process import NodeProcess
from tests.support.deadline import until
from tests.support.requirements import need_program

START_LIMIT_S = 30.0


class EtcdNode(NodeProcess):
    """One etcd."""

    def __init__(self, host: Host, directory: Path) -> None:
        super().__init__(directory / "etcd.log")
        self.host = host
        self._program = need_program("etcd")
        self._data_directory = directory / "etcd"
        (self._peer_port,) = free_ports(1)

    @property
    def url(self) -> str:
        """As `penstock serve --cluster` wants it."""
        return f"etcd://{self.host.bootstrap}"

    def start(self, *, wait: bool = True) -> None:
        """Start, or start again; on return it answers, if `wait` is set."""
        client, peer = f"http://{self.host.bootstrap}", f"http://127.0.0.1:{self._peer_port}"
        self.run(
            [
                *(*self.host.prefix, self._program, "--name", "one", "--data-dir", str(self._data_directory)),
                *("--listen-client-urls", client, "--advertise-client-urls", client),
                *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                *("--initial-cluster", f"one={peer}", "--log-level", "warn", "--logger", "zap"),
            ]
        )
        if wait:
            self.await_ready()

    def await_ready(self) -> None:
        """Wait until it answers."""

        def ready() -> bool:
            self.check_alive()
            return self.answers()

        until(ready, "etcd ready", limit_s=START_LIMIT_S)

    def answers(self) -> bool:
        """Whether it has a leader, which is itself."""
        try:
            with urllib.request.urlopen(f"http://{self.host.bootstrap}/health", timeout=2) as reply:
                return bool(json.load(reply)["health"] == "true")
        except (OSError, urllib.error.URLError, ValueError):
            return False
