"""What a cut between namespaces is: silent, in one direction, and over when it is healed. The tests of brokers stand on that."""

import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tests.support.cluster.hosts import Host, Namespaces, namespaces
from tests.support.deadline import until

ANSWERER = """
import socket, sys
socket_ = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
socket_.bind((sys.argv[1], 9092))
print("bound", flush=True)
while True:
    data, sender = socket_.recvfrom(100)
    socket_.sendto(data, ("198.18." + sender[0].split(".")[2] + ".254", 9093))
    if len(data) > 1:
        target = data.decode()[1:]
        socket_.sendto(data[:1], (target, 9092))
"""
"""Tells the test of each datagram that it gets; one that names an address is passed on to that."""


@pytest.fixture
def network() -> Iterator[Namespaces]:
    with namespaces() as network:
        yield network


class Post:
    """Sends datagrams from host to host."""

    def __init__(self, network: Namespaces) -> None:
        self.hosts = [network.make(name) for name in ("one", "two")]
        self._processes = [self._start(host) for host in self.hosts]
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        base = self.hosts[0].address.rpartition(".")[0]
        self._socket.bind((f"{base}.254", 9093))
        self._socket.settimeout(0.3)

    def _start(self, host: Host) -> "subprocess.Popen[bytes]":
        command = [*host.prefix, sys.executable, "-c", ANSWERER, host.address]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"bound\n"
        return process

    def reaches(self, sender: Host, receiver: Host) -> bool:
        """Whether a datagram arrives."""
        self._socket.sendto(b"x" + receiver.address.encode(), (sender.address, 9092))
        told: set[str] = set()
        try:
            while receiver.address not in told:
                told.add(self._socket.recvfrom(100)[1][0])
        except TimeoutError:
            assert sender.address in told, f"{sender.name} does not hear the test"
            return False
        return True

    def close(self) -> None:
        self._socket.close()
        for process in self._processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture
def post(network: Namespaces) -> Iterator[Post]:
    post = Post(network)
    yield post
    post.close()


def test_a_cut_that_takes_both_directions_or_none(network: Namespaces, post: Post) -> None:
    one, two = post.hosts
    until(lambda: post.reaches(one, two) and post.reaches(two, one), "a network")
    network.cut_one_way(one, two)
    assert not post.reaches(one, two)
    assert post.reaches(two, one)
    network.cut(one, two)
    assert not post.reaches(two, one)


def test_a_cut_that_is_not_healed(network: Namespaces, post: Post) -> None:
    one, two = post.hosts
    until(lambda: post.reaches(one, two), "a network")
    network.cut(one, two)
    network.heal()
    assert post.reaches(one, two)
    assert post.reaches(two, one)
