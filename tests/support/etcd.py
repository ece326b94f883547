"""Real etcd servers for tests: one or a cluster of them, on free loopback ports, killed, frozen and started again, ended with the test.

`running_etcd` is one server, `etcd_cluster` several. A test asks `need_etcd` first, or gets a skip with one clear line from either.
"""

import atexit
import contextlib
import functools
import http.client
import json
import signal
import socket
import subprocess
import tempfile
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import IO, Any

from bench.ports import free_ports
from tests.support.deadline import until
from tests.support.processes import freeze
from tests.support.requirements import need_program

START_LIMIT_S = 30.0
STOP_LIMIT_S = 20.0
ASK_LIMIT_S = 5.0
_MEMORY = Path("/dev/shm")


def need_etcd() -> str:
    """The path of the etcd server, or a skip."""
    return need_program("etcd", hint="Debian's package etcd-server")


class EtcdServer:
    """One etcd process with its data folder; made by `running_etcd` and `etcd_cluster`."""

    def __init__(
        self,
        folder: Path,
        name: str,
        ports: tuple[int, int],
        members: str,
        options: Sequence[str] = (),
        *,
        tls: bool = False,
        log_folder: Path | None = None,
    ) -> None:
        self.name = name
        self.data_directory = folder / name
        self.log_path = (log_folder or folder) / f"{name}.log"
        self.client_port, self._peer_port = ports
        self._members = members
        self._options = options
        self._tls = tls
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """`host:port` for clients; the same after a restart."""
        return f"127.0.0.1:{self.client_port}"

    @property
    def location(self) -> str:
        """What a broker is told: `etcd://host:port`."""
        return f"etcd{'s' if self._tls else ''}://{self.address}"

    @property
    def pid(self) -> int:
        """The process that runs now."""
        assert self._process is not None
        return self._process.pid

    def command(self) -> list[str]:
        """The command line; the same at each start."""
        client_url = f"http{'s' if self._tls else ''}://{self.address}"
        peer_url = f"http://127.0.0.1:{self._peer_port}"
        return [
            need_etcd(),
            *("--name", self.name),
            *("--data-dir", str(self.data_directory)),
            *("--listen-client-urls", client_url),
            *("--advertise-client-urls", client_url),
            *("--listen-peer-urls", peer_url),
            *("--initial-advertise-peer-urls", peer_url),
            *("--initial-cluster", self._members),
            *("--logger", "zap"),
            *("--log-level", "warn"),
            *self._options,
        ]

    def start(self) -> None:
        """Start, or start again on the same ports and folder; returns when it answers (alone) or runs (in a cluster)."""
        self.launch()
        until(
            self.is_ready, f"an answer of etcd {self.name}: {self.log_text()[-2000:]}", limit_s=START_LIMIT_S
        )

    def launch(self) -> None:
        """Start without waiting."""
        with self.log_path.open("ab") as log:
            self._process = self._popen(log)

    def _popen(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self._process is None or self._process.poll() is not None

    def is_ready(self) -> bool:
        """Whether the server answers and has a leader (with TLS: whether it takes connections). Raises AssertionError when the process has ended."""
        assert self._process is not None
        ended = self._process.poll()
        assert ended is None, f"etcd {self.name} ended with {ended} at start:\n{self.log_text()[-3000:]}"
        if self._tls:
            return self._takes_connections()
        try:
            return self.ask("GET", "/health").get("health") == "true"
        except (OSError, http.client.HTTPException, ValueError):
            return False

    def _takes_connections(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.client_port), timeout=ASK_LIMIT_S).close()
        except OSError:
            return False
        return True

    def ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """One call of the JSON gateway, without TLS; blocking. What it answers, whatever the status."""
        connection = http.client.HTTPConnection("127.0.0.1", self.client_port, timeout=ASK_LIMIT_S)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
            return answer
        finally:
            connection.close()

    def compact(self) -> int:
        """Forget all history up to now; returns the revision up to which it is gone."""
        revision = int(self.ask("POST", "/v3/kv/range", {"key": "AA=="})["header"]["revision"])
        self.ask("POST", "/v3/kv/compaction", {"revision": revision, "physical": True})
        return revision

    def kill(self) -> None:
        """SIGKILL, and wait for the end. No error when it has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """SIGTERM, and wait for the end."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(STOP_LIMIT_S)

    def freeze(self) -> None:
        """SIGSTOP; connections stay open and nothing answers."""
        freeze(self.pid)

    def thaw(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def log_text(self) -> str:
        """What it wrote so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""


@contextlib.contextmanager
def etcd_cluster(
    folder: Path, count: int, options: Sequence[str] = (), *, in_memory: bool = True, tls: bool = False
) -> Generator[list[EtcdServer]]:
    """`count` servers that have elected a leader; all are killed when the block is left.

    `in_memory` keeps the data in memory where the machine has /dev/shm: kills lose nothing there, and syncs cost nothing. The logs are
    in `folder`. `options` are further flags of etcd.
    """
    need_etcd()
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        data = folder
        if in_memory and _MEMORY.is_dir():
            data = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-etcd-", dir=_MEMORY))
            )
        servers = _servers(folder, data, count, options, tls)
        for server in servers:
            stack.callback(server.kill)
            server.launch()
        for server in servers:
            until(server.is_ready, f"an answer of etcd {server.name}", limit_s=START_LIMIT_S)
        yield servers


@contextlib.contextmanager
def running_etcd(
    folder: Path, options: Sequence[str] = (), *, in_memory: bool = True, tls: bool = False
) -> Generator[EtcdServer]:
    """One server that answers; killed when the block is left. See `etcd_cluster`."""
    with etcd_cluster(folder, 1, options, in_memory=in_memory, tls=tls) as (server,):
        yield server


def _servers(folder: Path, data: Path, count: int, options: Sequence[str], tls: bool) -> list[EtcdServer]:
    ports = free_ports(2 * count)
    pairs = list(zip(ports[:count], ports[count:], strict=True))
    members = ",".join(f"etcd{number}=http://127.0.0.1:{peer}" for number, (_, peer) in enumerate(pairs, 1))
    return [
        EtcdServer(data, f"etcd{number}", pair, members, options, tls=tls, log_folder=folder)
        for number, pair in enumerate(pairs, 1)
    ]


@functools.cache
def shared_etcd() -> EtcdServer:
    """One server for all tests of this process that neither kill nor compact it; each takes a prefix of its own. Ends with the process."""
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-etcd-log-")))
    return stack.enter_context(running_etcd(folder))
