"""A port of ours is nobody else's: of no other process that asks, and of no connection that somebody opens."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from bench.ports import free_ports, is_free_port, neighbouring_ports


def test_two_processes_get_different_ports() -> None:
    ours = set(free_ports(200))
    code = "from bench.ports import free_ports; print(*free_ports(200))"
    command, root = [sys.executable, "-c", code], Path(__file__).parents[3]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root).stdout
    theirs = set(map(int, output.split()))
    assert len(theirs) == 200
    assert not theirs & ours


def test_a_process_gets_all_of_its_ports_before_one_comes_again() -> None:
    ports = [*free_ports(100), *free_ports(100)]
    assert len(set(ports)) == 200


def test_a_port_that_is_taken_is_left_out() -> None:
    with socket.socket() as other:
        (port,) = free_ports(1)
        other.bind(("127.0.0.1", port))
        other.listen()
        assert not is_free_port(port)
        assert port not in [one for _ in range(5) for one in free_ports(50)]
    assert is_free_port(port)


def test_more_ports_than_a_process_has_are_refused() -> None:
    with pytest.raises(RuntimeError, match="300 free ports are wanted"):
        free_ports(300)


def test_neighbours_are_in_a_row_and_all_free() -> None:
    with socket.socket() as other:
        (taken,) = free_ports(1)
        other.bind(("127.0.0.1", taken))
        other.listen()
        firsts = [neighbouring_ports(3) for _ in range(100)]
    assert len(set(firsts)) > 50
    assert not set(firsts) & {taken - 2, taken - 1, taken}


@pytest.mark.skipif(sys.platform != "linux", reason="the range is a file of Linux")
def test_the_kernel_gives_none_of_them_to_a_connection() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(free_ports(100)) < lowest
