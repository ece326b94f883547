"""`penstock serve --cluster` as a process: it waits for its etcd, lives through the loss of it, and says in one line why it can't join."""

import re
import signal
from collections.abc import Generator
from pathlib import Path

import pytest
from bench.ports import free_ports
from tests.integration.test_cli_serve import serving
from tests.support.commands import Commands
from tests.support.deadline import until
from tests.support.etcd import EtcdServer, running_etcd

LIMIT_S = 30.0
QUICK = ("--listen", "127.0.0.1:0", "--data-dir", "data")
SHORT_SESSION = (
    *("--set", "broker.session.timeout.ms=2000"),
    *("--set", "broker.heartbeat.interval.ms=500"),
)


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Generator[EtcdServer]:
    with running_etcd(tmp_path_factory.mktemp("etcd")) as server:
        yield server


def test_it_waits_for_etcd_and_lives_through_the_loss_of_it(etcd: EtcdServer, tmp_path: Path) -> None:
    etcd.stop()
    with serving(tmp_path, *QUICK, *SHORT_SESSION, "--cluster", f"{etcd.location}/waits") as broker:
        until(lambda: "waiting for the metadata store" in broker.err.read_text(), "a line", limit_s=LIMIT_S)
        assert "Connection refused" in broker.err.read_text()
        etcd.start()
        assert f"node 1, metadata in {etcd.location}/waits, data in data" in broker.start_line()
        commands = Commands(broker.bootstrap())
        commands.good("topic", "create", "orders")
        etcd.kill()
        until(lambda: "no heartbeat" in broker.err.read_text(), "a heartbeat that fails", limit_s=LIMIT_S)
        etcd.start()
        until(lambda: "the watch goes on" in broker.err.read_text(), "the watch", limit_s=LIMIT_S)
        commands.good("topic", "create", "more")
        commands.good("produce", "orders", stdin=b"1\n")
        assert broker.stop() == 0
        assert "Traceback" not in broker.err.read_text()


def test_ctrl_c_ends_the_wait_at_once(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with serving(tmp_path, *QUICK, "--cluster", f"etcd://me:s3cret@127.0.0.1:{port}") as broker:
        until(lambda: "waiting" in broker.err.read_text(), "a line", limit_s=LIMIT_S)
        assert broker.stop(signal.SIGINT) == 0
        assert broker.out.read_text() == ""
        assert "s3cret" not in broker.err.read_text()


def test_a_node_id_that_is_in_use_and_a_wrong_cluster_are_one_line_each(
    etcd: EtcdServer, tmp_path: Path
) -> None:
    cluster = ("--cluster", f"{etcd.location}/taken")
    with serving(tmp_path / "first", *QUICK, *SHORT_SESSION, *cluster) as first:
        first.start_line()
        with serving(tmp_path / "second", *QUICK, *SHORT_SESSION, *cluster) as second:
            assert re.search("node id 1 is in use", second.refusal())
        with serving(tmp_path / "third", *QUICK, *cluster, "--set", "cluster.id=other") as third:
            assert re.search("it belongs to cluster [^ ]+, not to other", third.refusal())


def test_a_wrong_password_is_one_line_that_does_not_show_it(tmp_path: Path) -> None:
    with running_etcd(tmp_path / "etcd") as etcd:
        for path, body in (
            ("user/add", {"name": "root", "password": "right"}),
            ("role/add", {"name": "root"}),
            ("user/grant", {"user": "root", "role": "root"}),
            ("enable", {}),
        ):
            etcd.ask("POST", f"/v3/auth/{path}", body)
        location = ("--cluster", f"etcd://root@{etcd.address}")
        wrong = {"PENSTOCK_METADATA_ETCD_PASSWORD": "wr0ng"}
        with serving(tmp_path / "wrong", *QUICK, *location, environment=wrong) as broker:
            line = broker.refusal()
            assert "user 'root': authentication failed" in line
            assert "wr0ng" not in line
        with serving(tmp_path / "none", *QUICK, "--cluster", etcd.location) as broker:
            assert "wants a user and a password" in broker.refusal()


def test_a_cluster_that_is_no_etcd_is_one_line(tmp_path: Path) -> None:
    with serving(tmp_path, *QUICK, "--cluster", "localhost:2379") as broker:
        assert broker.process.wait(LIMIT_S) == 2
        assert "--cluster: name an etcd" in broker.err.read_text()
