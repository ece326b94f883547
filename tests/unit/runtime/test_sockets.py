"""What real TCP adds to the contract of the network: names, families, options, errors of the kernel."""

import os
import socket
import struct

import pytest
import trio
from tests.support.limits import no_more_descriptors
from tests.support.networks import HOST, connected, receive_exactly
from tests.support.requirements import need
from trio.testing import wait_all_tasks_blocked

from penstock.runtime.files import TooManyOpenFiles
from penstock.runtime.network import AddressError, ConnectionLost
from penstock.runtime.sockets import SocketListener, SocketNetwork, SocketStream

NETWORK = SocketNetwork()


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def listening_socket(host: str) -> socket.socket:
    listening = socket.socket()
    listening.setblocking(False)
    listening.bind((host, 0))
    listening.listen()
    return listening


def open_descriptor_count() -> int:
    need(os.path.exists("/proc/self/fd"), "/proc/self/fd")
    return len(os.listdir("/proc/self/fd"))


async def say_and_hear(client: SocketStream, server: SocketStream) -> None:
    await client.send_all([b"hello"])
    assert await receive_exactly(server, 5) == b"hello"


async def test_localhost_is_heard_on_every_address_it_has() -> None:
    listener = await NETWORK.listen("localhost", 0)
    host, port = listener.address
    assert host == "localhost"
    for address in {info[4][0] for info in socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM)}:
        client = await NETWORK.connect(str(address), port)
        server = await listener.accept()
        await say_and_hear(client, server)
        client.close()
        server.close()
    listener.close()


async def test_the_empty_name_is_every_address_of_both_families() -> None:
    need(has_ipv6(), "IPv6 on loopback")
    listener = await NETWORK.listen("", 0)
    for host, peer in (("127.0.0.1", "127.0.0.1:"), ("::1", "[::1]:")):
        client = await NETWORK.connect(host, listener.address[1])
        server = await listener.accept()
        assert server.peer.startswith(peer)
        await say_and_hear(client, server)
        client.close()
        server.close()
    listener.close()


async def test_an_ipv4_client_of_the_ipv6_wildcard_is_named_by_its_ipv4_address() -> None:
    need(has_ipv6(), "IPv6 on loopback")
    listener = await NETWORK.listen("::", 0)
    client = await NETWORK.connect("127.0.0.1", listener.address[1])
    server = await listener.accept()
    assert server.peer.startswith("127.0.0.1:")
    for end in (client, server, listener):
        end.close()


async def test_no_socket_of_a_listener_starves_the_others() -> None:
    """The first address always has a connection waiting; the second one's client must get in all the same."""
    sockets = [listening_socket(host) for host in ("127.0.0.1", "127.0.0.2")]
    addresses = [listening.getsockname() for listening in sockets]
    listener = SocketListener(addresses[0], sockets)
    ends: list[SocketStream] = [await NETWORK.connect(*addresses[0]) for _ in range(5)]
    quiet = await NETWORK.connect(*addresses[1])
    accepted = [await listener.accept() for _ in range(2)]
    await quiet.send_all([b"me"])
    with trio.fail_after(5):
        assert await receive_exactly(accepted[1], 2) == b"me"
    listener.close()
    for end in [*ends, *accepted, quiet]:
        end.close()


async def test_accepting_waits_on_all_sockets_at_once_and_ends_with_closing() -> None:
    sockets = [listening_socket(host) for host in ("127.0.0.1", "127.0.0.2")]
    addresses = [listening.getsockname() for listening in sockets]
    listener = SocketListener(addresses[0], sockets)
    accepted, servers = trio.open_memory_channel[SocketStream](0)

    async def accept_for_ever() -> None:
        while True:
            await accepted.send(await listener.accept())

    async def accept_until_closed() -> None:
        with pytest.raises(ConnectionLost):
            await accept_for_ever()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept_until_closed)
            for address in (addresses[1], addresses[0], addresses[1]):
                await wait_all_tasks_blocked()
                client = await NETWORK.connect(*address)
                server = await servers.receive()
                await say_and_hear(client, server)
                client.close()
                server.close()
            await wait_all_tasks_blocked()
            listener.close()


async def test_a_cancelled_accept_loses_no_connection() -> None:
    sockets = [listening_socket(host) for host in ("127.0.0.1", "127.0.0.2")]
    address = sockets[1].getsockname()
    listener = SocketListener(address, sockets)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.accept)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    client = await NETWORK.connect(*address)
    server = await listener.accept()
    await say_and_hear(client, server)
    for end in (client, server, listener):
        end.close()


async def test_connections_do_not_wait_for_full_segments_and_notice_dead_peers() -> None:
    async with connected(NETWORK) as pair:
        for end in (pair.client, pair.server):
            assert isinstance(end, SocketStream)
            with socket.socket(fileno=os.dup(end.fileno())) as same:
                assert same.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert same.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                assert same.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 120


async def test_a_reset_connection_is_lost_and_named() -> None:
    listener = await NETWORK.listen(HOST, 0)
    peer = socket.create_connection(listener.address)
    stream = await listener.accept()
    name = "{}:{}".format(*peer.getsockname())
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    with pytest.raises(ConnectionLost, match=f"^{name}: .*reset"):
        await stream.receive_into(bytearray(1))
    stream.close()
    listener.close()


async def test_want_of_descriptors_is_told_and_passes() -> None:
    listener = await NETWORK.listen(HOST, 0)
    client = await NETWORK.connect(*listener.address)
    with no_more_descriptors(), pytest.raises(TooManyOpenFiles):
        await listener.accept()
    server = await listener.accept()
    await say_and_hear(client, server)
    for end in (client, server, listener):
        end.close()


@pytest.mark.parametrize("port", [-1, 65536, 1 << 40])
async def test_a_number_that_is_no_port_is_refused(port: int) -> None:
    with pytest.raises(AddressError, match=str(port)):
        await NETWORK.listen(HOST, port)
    with pytest.raises(AddressError, match=str(port)):
        await NETWORK.connect(HOST, port)


@pytest.mark.parametrize("host", ["a..b", "x" * 64, "127.0.0.1.5.6"])
async def test_a_name_that_means_nothing_is_an_address_error(host: str) -> None:
    with pytest.raises(AddressError, match=host):
        await NETWORK.connect(host, 9092)
    with pytest.raises(AddressError, match=host):
        await NETWORK.listen(host, 0)


async def test_an_address_of_another_machine_is_not_listened_on() -> None:
    with pytest.raises(AddressError, match=r"192\.0\.2\.1:0"):
        await NETWORK.listen("192.0.2.1", 0)


async def test_a_cancelled_connect_leaves_no_socket_open() -> None:
    full = socket.socket()
    full.bind((HOST, 0))
    full.listen(0)
    before = open_descriptor_count()
    streams: list[SocketStream] = []
    with trio.move_on_after(0.2) as scope:
        while True:
            streams.append(await NETWORK.connect(*full.getsockname()))
    assert scope.cancelled_caught
    assert open_descriptor_count() == before + len(streams)
    for stream in streams:
        stream.close()
    full.close()


async def test_one_task_sends_while_another_receives() -> None:
    async with connected(NETWORK) as pair, trio.open_nursery() as nursery:
        data = os.urandom(3_000_000)

        async def echo() -> None:
            buffer = bytearray(65536)
            while count := await pair.server.receive_into(buffer):
                await pair.server.send_all([memoryview(buffer)[:count]])

        nursery.start_soon(echo)
        nursery.start_soon(pair.client.send_all, [data])
        assert await receive_exactly(pair.client, len(data)) == data
        nursery.cancel_scope.cancel()


async def test_of_two_that_hold_a_port_only_one_opens_it() -> None:
    first = await NETWORK.listen(HOST, 0, is_open=False)
    second = await NETWORK.listen(*first.address, is_open=False)
    first.open()
    with pytest.raises(AddressError, match=f"can't listen on {HOST}:{first.address[1]}"):
        second.open()
    for listener in (first, second):
        listener.close()
