"""`penstock dev-cluster` as a process: its start, a broker that is killed, one Ctrl-C, a second start, and what it refuses."""

import os
import re
import signal
import socket
import subprocess
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bench.ports import is_free_port, neighbouring_ports
from tests.support.commands import Commands
from tests.support.deadline import until
from tests.support.etcd import need_etcd

LIMIT_S = 60.0


class DevCluster:
    """The process and what it says."""

    def __init__(self, folder: Path, *flags: str, variables: Mapping[str, str] | None = None) -> None:
        self.output = folder / "output"
        inherited = {name: text for name, text in os.environ.items() if not name.startswith("PENSTOCK_")}
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                Commands("").line("dev-cluster", *flags),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**inherited, **(variables or {})},
            )

    def text(self) -> str:
        return self.output.read_text()

    def until_said(self, pattern: str) -> re.Match[str]:
        """Wait for it in what this run has said."""

        def found() -> re.Match[str] | None:
            match = re.search(pattern, self.text())
            assert match is not None or self.process.poll() is None, self.text()
            return match

        return until(found, pattern, limit_s=LIMIT_S)

    def stop(self) -> int:
        """Ctrl-C, and the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(LIMIT_S)

    def refusal(self) -> str:
        """Wait for the end, which must be exit code 1 and one line."""
        assert self.process.wait(LIMIT_S) == 1, self.text()
        (line,) = self.text().splitlines()
        return line


@contextmanager
def dev_cluster(
    folder: Path, *flags: str, variables: Mapping[str, str] | None = None
) -> Generator[DevCluster]:
    cluster = DevCluster(folder, *flags, variables=variables)
    try:
        yield cluster
    finally:
        cluster.process.kill()
        cluster.process.wait()


def test_a_cluster_starts_loses_a_broker_stops_on_one_ctrl_c_and_finds_its_data_again(tmp_path: Path) -> None:
    need_etcd()
    port, etcd_port = neighbouring_ports(2), neighbouring_ports(2)
    ports = [port, port + 1, etcd_port, etcd_port + 1]
    flags = ["-n", "2", "--port", str(port), "--etcd-port", str(etcd_port), "--log-level", "error"]
    commands = Commands(f"localhost:{port}")
    with dev_cluster(tmp_path, *flags, "--set", "broker.session.timeout.ms=4000") as cluster:
        cluster.until_said(rf"The cluster is up: localhost:{port},localhost:{port + 1}, data in ")
        assert re.search(r" broker-2 \| penstock .* listens on ", cluster.text())
        commands.good("topic", "create", "orders")
        commands.good("produce", "orders", stdin=b"1\n2\n")
        os.kill(pid_of(cluster, 2), signal.SIGKILL)
        line = cluster.until_said(
            r"broker-2 has ended \(SIGKILL\), the others go on\. To start it again: (.*)"
        )
        assert "serve --node-id 2 " in line.group(1)
        assert cluster.stop() == 0, cluster.text()
        assert cluster.text().endswith("The cluster has stopped.\n")
        assert "Traceback" not in cluster.text()
    assert all(map(is_free_port, ports))
    with dev_cluster(tmp_path, *flags) as cluster:
        until(lambda: cluster.text().count("The cluster is up") == 2, "the second start", limit_s=LIMIT_S)
        assert commands.good("consume", "orders", "--exit").lines == ["1", "2"]
        cluster.process.kill()
        until(
            lambda: all(map(is_free_port, ports)),
            "the end of what was killed with its parent",
            limit_s=LIMIT_S,
        )


def test_ctrl_c_in_the_middle_of_the_start_stops_what_runs_by_then(tmp_path: Path) -> None:
    need_etcd()
    port, etcd_port = neighbouring_ports(2), neighbouring_ports(2)
    with dev_cluster(tmp_path, "-n", "2", "--port", str(port), "--etcd-port", str(etcd_port)) as cluster:
        until(lambda: not is_free_port(etcd_port), "etcd on its port", limit_s=LIMIT_S)
        assert cluster.stop() == 0, cluster.text()
        assert "Traceback" not in cluster.text()
    assert all(map(is_free_port, [port, port + 1, etcd_port, etcd_port + 1]))


def pid_of(cluster: DevCluster, node_id: int) -> int:
    """The broker among the children of the process."""
    children = Path(f"/proc/{cluster.process.pid}/task").glob("*/children")
    for pid in [int(pid) for one in children for pid in one.read_text().split()]:
        if f"--node-id\0{node_id}\0" in Path(f"/proc/{pid}/cmdline").read_text():
            return pid
    raise AssertionError(f"broker {node_id} is no child")


def test_without_etcd_one_line_says_how_to_get_it(tmp_path: Path) -> None:
    with dev_cluster(tmp_path, variables={"PATH": str(tmp_path)}) as cluster:
        assert re.search(r"etcd is not installed.*apt install etcd-server", cluster.refusal())
    assert not (tmp_path / "penstock-cluster").exists()


def test_a_port_that_is_taken_is_one_line_and_nothing_is_started(tmp_path: Path) -> None:
    need_etcd()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with dev_cluster(tmp_path, "--port", str(port), "--etcd-port", str(neighbouring_ports(2))) as cluster:
            assert f":{port}: Address already in use" in cluster.refusal()
    assert not (tmp_path / "penstock-cluster").exists()
