"""Where the processes of a cluster run: all on loopback, or each in a network namespace of its own.

Namespaces hang with veths on a bridge in the namespace of the test, so that clients reach every broker whatever is cut between brokers. A cut
takes one direction: the sender's neighbour entry for the receiver is nailed to a hardware address that nobody has, so packets vanish
without an error, on open connections and new ones alike. That needs root and `ip`, and neither netfilter nor netem.
"""

import os
import random
import subprocess
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

from bench.ports import free_ports
from tests.support.requirements import need, need_program

NOBODY = "02:00:00:00:00:ff"
TEST_HOST = 254


@dataclass(frozen=True, slots=True)
class Host:
    """Where one process runs. `name` is unique within its cluster; `prefix` goes before its command line."""

    name: str
    address: str
    port: int
    prefix: Sequence[str] = ()

    @property
    def bootstrap(self) -> str:
        """`address:port`."""
        return f"{self.address}:{self.port}"


class Hosts(Protocol):
    """A source of hosts."""

    def make(self, name: str) -> Host:
        """A new host."""
        ...


class Loopback:
    """All on 127.0.0.1, each with a port."""

    def make(self, name: str) -> Host:
        """A host with a port that is free now, and stays its own."""
        (port,) = free_ports(1)
        return Host(name, "127.0.0.1", port)


class Namespaces:
    """Each in a network namespace of its own, on one bridge; see `namespaces`."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._hosts: list[Host] = []
        self.bridge = f"psbr{number}"
        self._cuts: set[tuple[str, str]] = set()

    def make(self, name: str) -> Host:
        """A namespace with one address, which reaches all others and the test."""
        index = len(self._hosts) + 1
        namespace, link = f"ps{self._number}n{index}", f"ps{self._number}v{index}"
        address = f"198.18.{self._number}.{index}"
        _ip("netns", "add", namespace)
        # `ip netns exec` would also keep all file systems mounted that are now: other tests' disks, which these unmount
        host = Host(name, address, 9092, ("nsenter", f"--net=/var/run/netns/{namespace}"))
        self._hosts.append(host)
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        _ip("link", "set", link, "master", self.bridge, "up")
        _ip("-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", namespace, "link", "set", "eth0", "up")
        _ip("-n", namespace, "link", "set", "lo", "up")
        return host

    def cut_one_way(self, sender: Host, receiver: Host) -> None:
        """Nothing of `sender` reaches `receiver` until `heal`; no error is told to either."""
        _ip(*_inside(sender), "neigh", "replace", receiver.address, "lladdr", NOBODY, *_PERMANENT)
        self._cuts.add((sender.name, receiver.name))

    def cut(self, one: Host, other: Host) -> None:
        """Both directions."""
        self.cut_one_way(one, other)
        self.cut_one_way(other, one)

    def isolate(self, one: Host, others: Sequence[Host]) -> None:
        """`one` from each of `others`, both directions."""
        for other in others:
            self.cut(one, other)

    def heal(self) -> None:
        """All reach all."""
        by_name = {host.name: host for host in self._hosts}
        while self._cuts:
            sender, receiver = self._cuts.pop()
            address = by_name[receiver].address
            _ip(*_inside(by_name[sender]), "neigh", "del", address, "dev", "eth0")

    def close(self) -> None:
        """Take all of it down; the processes in it are dead by then."""
        for index in range(1, len(self._hosts) + 1):
            _ip("netns", "del", f"ps{self._number}n{index}")
        _ip("link", "del", self.bridge)


_PERMANENT = ("dev", "eth0", "nud", "permanent")


def _inside(host: Host) -> tuple[str, str]:
    return "-n", host.prefix[-1].rpartition("/")[2]


@contextmanager
def namespaces() -> Generator[Namespaces]:
    """A network of namespaces with a /24 of its own from the range kept for benchmarks (RFC 2544). Skips without root and `ip`."""
    need(os.geteuid() == 0, "root, for network namespaces")
    need_program("ip")
    need_program("nsenter")
    with ExitStack() as stack:
        number = _new_bridge()
        network = Namespaces(number)
        stack.callback(network.close)
        _ip("addr", "add", f"198.18.{number}.{TEST_HOST}/24", "dev", network.bridge)
        _ip("link", "set", network.bridge, "up")
        yield network


def _new_bridge() -> int:
    """The number of a bridge that nobody had: making one is what decides between two test runs."""
    for number in random.sample(range(255), 255):
        made = subprocess.run(
            ["ip", "link", "add", f"psbr{number}", "type", "bridge"], capture_output=True, check=False
        )
        if made.returncode == 0:
            return number
        told = made.stderr.decode()
        assert "File exists" in told, told
    raise AssertionError("255 bridges are there already")


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr.decode()}"
