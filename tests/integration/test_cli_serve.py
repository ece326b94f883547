"""`penstock serve` as a process: what it says, how it stops, and how it refuses to start."""

import contextlib
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support import schema_codec
from tests.support.deadline import until
from tests.support.schema_codec import API_KEYS
from tests.support.wire import Connection, connect, frame, request_header

from penstock import __version__

PENSTOCK = str(Path(sys.executable).with_name("penstock"))
LIMIT_S = 20


class Serve:
    """A process, its output and its exit."""

    def __init__(self, folder: Path, *flags: str, environment: Mapping[str, str] | None = None) -> None:
        self.data = folder / "data"
        self.out, self.err = folder / "out", folder / "err"
        variables = {name: text for name, text in os.environ.items() if not name.startswith("PENSTOCK_")}
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [PENSTOCK, "serve", *flags],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**variables, **(environment or {})},
            )

    def start_line(self) -> str:
        """Wait for it."""
        return until(self._start_line, "the start line", limit_s=LIMIT_S)

    def _start_line(self) -> str | None:
        assert self.process.poll() is None, self.err.read_text()
        text = self.out.read_text()
        return text.strip() if text.endswith("\n") else None

    def bootstrap(self) -> str:
        """The address in the start line."""
        found = re.search(r" listens on (\S+:\d+),", self.start_line())
        assert found is not None
        return found.group(1)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end."""
        self.process.send_signal(number)
        return self.process.wait(LIMIT_S)

    def refusal(self) -> str:
        """Wait for the end, which must be exit code 1 and one line on stderr."""
        assert self.process.wait(LIMIT_S) == 1, self.err.read_text()
        assert self.out.read_text() == ""
        (line,) = self.err.read_text().splitlines()
        return line


@contextmanager
def serving(
    folder: Path, *flags: str, environment: Mapping[str, str] | None = None
) -> Generator[Serve, None, None]:
    folder.mkdir(exist_ok=True)
    serve = Serve(folder, *flags, environment=environment)
    try:
        yield serve
    finally:
        serve.process.kill()
        serve.process.wait()


ANY_PORT = ("--listen", "127.0.0.1:0", "--data-dir", "data")


def test_the_start_line_tells_version_address_folder_durability_and_time(tmp_path: Path) -> None:
    with serving(tmp_path, *ANY_PORT) as serve:
        line = serve.start_line()
    assert re.fullmatch(
        rf"penstock {re.escape(__version__)} listens on 127\.0\.0\.1:\d+, data in data, "
        r"write\.caching=false \(acked is on disk\), started in \d+\.\d\d s",
        line,
    )


def test_the_start_line_knows_of_a_durability_mode_that_was_altered_by_a_client(tmp_path: Path) -> None:
    change = {"name": "write.caching", "config_operation": 0, "value": "true"}
    with serving(tmp_path, *ANY_PORT) as serve:
        with connect(serve.bootstrap()) as connection:
            resources = [{"resource_type": 4, "resource_name": "", "configs": [change]}]
            answer = connection.request(
                "incremental_alter_configs", 1, resources=resources, validate_only=False
            )
        assert answer.responses[0].error_code == 0
        assert serve.stop() == 0
    with serving(tmp_path, *ANY_PORT) as again:
        assert "write.caching=true (acked is in the page cache)" in again.start_line()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    with serving(tmp_path, *ANY_PORT) as serve, connect(serve.bootstrap()) as connection:
        assert connection.request("api_versions", 0).error_code == 0
        assert serve.stop(number) == 0
        assert connection.is_closed_by_peer()
    lines = serve.err.read_text().splitlines()
    assert f"{number.name}: stopping" in lines[-2]
    assert lines[-1].endswith("stopped")
    assert "Traceback" not in serve.err.read_text()
    with serving(tmp_path, *ANY_PORT) as again:
        again.start_line()


def fill_the_way_back(connection: Connection) -> None:
    """Ask until the broker can't send its answers, since nobody reads them."""
    names = [{"name": f"{number:0>200}"} for number in range(1000)]
    body = schema_codec.encode_request("metadata", 1, {"topics": names})
    header = request_header(API_KEYS["metadata"], 1, 1, is_flexible=False)
    request = frame(header + body)
    connection.socket.setblocking(False)
    rest = request

    def is_full() -> bool:
        nonlocal rest
        try:
            rest = rest[connection.socket.send(rest) :] or request
        except BlockingIOError:
            return True
        return False

    until(is_full, "a full socket", limit_s=LIMIT_S)


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with (
        serving(tmp_path, *ANY_PORT, "--no-auto-create", "--set", "shutdown.timeout.ms=600000") as serve,
        Connection(split(serve.bootstrap()), receive_buffer_bytes=4096) as connection,
    ):
        fill_the_way_back(connection)
        serve.process.send_signal(signal.SIGTERM)
        until(lambda: "stopping" in serve.err.read_text(), "the first signal to be taken", limit_s=LIMIT_S)
        assert serve.process.poll() is None
        assert serve.stop(signal.SIGINT) == 128 + signal.SIGINT


def split(bootstrap: str) -> tuple[str, int]:
    host, _, port = bootstrap.rpartition(":")
    return host, int(port)


def test_a_port_in_use_is_one_line_and_leaves_no_data_behind(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        with serving(tmp_path, "--listen", address, "--data-dir", "data") as serve:
            assert serve.refusal() == f"penstock: can't listen on {address}: Address already in use"
    assert not serve.data.exists()


def test_a_folder_in_use_is_one_line(tmp_path: Path) -> None:
    with serving(tmp_path / "first", *ANY_PORT) as first:
        first.start_line()
        flags = ("--listen", "127.0.0.1:0", "--data-dir", str(first.data))
        with serving(tmp_path / "second", *flags) as second:
            assert second.refusal() == f"penstock: {first.data}: another process works in this data directory"


@pytest.mark.parametrize("where", ["a-file", "a-file/below", "/proc/nowhere"])
def test_a_folder_that_can_not_be_made_is_one_line(tmp_path: Path, where: str) -> None:
    (tmp_path / "a-file").touch()
    with serving(tmp_path, "--listen", "127.0.0.1:0", "--data-dir", where) as serve:
        assert serve.refusal().startswith(f"penstock: {where}")


def test_a_folder_of_a_newer_format_is_one_line(tmp_path: Path) -> None:
    with serving(tmp_path, *ANY_PORT) as serve:
        serve.start_line()
        assert serve.stop() == 0
    properties = serve.data / "meta.properties"
    text, count = re.subn(
        r"^penstock\.format=\d+$", "penstock.format=4711", properties.read_text(), flags=re.MULTILINE
    )
    assert count == 1
    properties.write_text(text)
    with serving(tmp_path, *ANY_PORT) as again:
        assert "format" in again.refusal()


def test_a_metadata_store_of_a_newer_format_is_one_line_and_left_alone(tmp_path: Path) -> None:
    with serving(tmp_path, *ANY_PORT) as serve:
        serve.start_line()
        assert serve.stop() == 0
    store = serve.data / "metadata.db"
    with contextlib.closing(sqlite3.connect(store)) as database:
        database.execute("PRAGMA user_version = 4711")
    before = store.read_bytes()
    with serving(tmp_path, *ANY_PORT) as again:
        assert again.refusal() == (
            "penstock: data/metadata.db: a metadata store in format 4711, this Penstock reads 1"
        )
    assert store.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        (
            "meta.properties",
            "version=1\nnode.id=1\ncluster.id=x\ndirectory.id=y\n",
            "data/meta.properties: a data directory of Apache Kafka, ",
        ),
        ("letter.txt", "Dear", "data: no data directory of Penstock, and not empty (it has letter.txt); "),
    ],
)
def test_a_folder_of_somebody_else_is_one_line_and_left_alone(
    tmp_path: Path, name: str, content: str, complaint: str
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_text(content)
    with serving(tmp_path, *ANY_PORT) as serve:
        assert serve.refusal().startswith(f"penstock: {complaint}")
    left = {path.name for path in serve.data.iterdir()} - {".lock"}
    assert left == {name}
    assert (serve.data / name).read_text() == content


def test_listeners_have_names_and_clients_are_told_the_address_of_theirs(tmp_path: Path) -> None:
    (tmp_path / "penstock.toml").write_text('[log]\ndirs = "from-file"\n[num]\npartitions = 7\n')
    flags = (
        "--config",
        "penstock.toml",
        "--listen",
        "INSIDE://127.0.0.1:0",
        "--listen",
        "OUTSIDE://127.0.0.1:0",
    )
    more = ("--advertise", "OUTSIDE://kafka.example", "--no-auto-create")
    variables = {
        "PENSTOCK_LISTENER_SECURITY_PROTOCOL_MAP": "INSIDE:PLAINTEXT,OUTSIDE:PLAINTEXT",
        "PENSTOCK_NUM_PARTITIONS": "3",
        "PENSTOCK_LOG_LEVEL": "error",
    }
    with serving(tmp_path, *flags, *more, environment=variables) as serve:
        ports = dict(re.findall(r"(INSIDE|OUTSIDE)://127\.0\.0\.1:(\d+)", serve.start_line()))
        told = {name: advertised_to(port) for name, port in ports.items()}
        created = subprocess.run(
            [PENSTOCK, "topic", "create", "t", "--bootstrap", f"127.0.0.1:{ports['INSIDE']}"],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert serve.stop() == 0
    assert told == {
        "INSIDE": ("127.0.0.1", int(ports["INSIDE"])),
        "OUTSIDE": ("kafka.example", int(ports["OUTSIDE"])),
    }
    assert created.stdout == "created t: 3 partitions\n", created.stderr
    assert (tmp_path / "from-file").is_dir()
    assert serve.err.read_text() == ""


def advertised_to(port: str) -> tuple[str, int]:
    with connect(f"127.0.0.1:{port}") as connection:
        (broker,) = connection.request("metadata", 1, topics=[]).brokers
        return broker.host, broker.port
