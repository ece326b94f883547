"""What every network must do for its streams."""

from array import array

import pytest
import trio
from tests.support.file_systems import Disk
from tests.support.networks import HOST, Pair, connected, receive_exactly
from trio.testing import wait_all_tasks_blocked

from penstock.runtime.files import File
from penstock.runtime.network import AddressError, ConnectionLost, Network

LARGE_BYTES = 8_000_000
"""More than the system keeps for a connection whose other side does not read."""


def pattern(count: int) -> bytes:
    """Bytes in which a lost, doubled or misplaced piece shows."""
    return array("I", range(count // 4 + 1)).tobytes()[:count]


async def test_both_ends_hear_each_other(network: Network) -> None:
    async with connected(network) as pair:
        await pair.client.send_all([b"question"])
        assert await receive_exactly(pair.server, 8) == b"question"
        await pair.server.send_all([b"ans", b"wer"])
        assert await receive_exactly(pair.client, 6) == b"answer"


async def test_receiving_waits_and_gives_what_is_there(network: Network) -> None:
    async with connected(network) as pair, trio.open_nursery() as nursery:
        buffer = bytearray(100)

        async def receive() -> None:
            assert await pair.server.receive_into(memoryview(buffer)[10:]) == 3
            assert buffer[10:13] == b"abc"

        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        await pair.client.send_all([b"abc"])


async def test_the_end_of_the_stream_is_zero_and_comes_after_the_data(network: Network) -> None:
    async with connected(network) as pair:
        await pair.client.send_all([b"last"])
        pair.client.close()
        assert await receive_exactly(pair.server, 4) == b"last"
        assert await pair.server.receive_into(bytearray(1)) == 0
        assert await pair.server.receive_into(bytearray(1)) == 0


async def test_buffers_of_every_kind_arrive_in_order(network: Network) -> None:
    data = pattern(100)
    async with connected(network) as pair:
        await pair.client.send_all(
            [data[:10], bytearray(data[10:30]), b"", memoryview(data)[30:99], memoryview(data[99:]), b""]
        )
        await pair.client.send_all([])
        await pair.client.send_all([b""])
        await pair.client.send_all([memoryview(b"end")])
        assert await receive_exactly(pair.server, 103) == data + b"end"


@pytest.mark.parametrize("piece_bytes", [1000, 700_001, LARGE_BYTES])
async def test_more_than_the_connection_holds_arrives_whole(network: Network, piece_bytes: int) -> None:
    data = pattern(LARGE_BYTES)
    pieces = [data[at : at + piece_bytes] for at in range(0, LARGE_BYTES, piece_bytes)]
    async with connected(network) as pair, trio.open_nursery() as nursery:
        nursery.start_soon(pair.client.send_all, pieces)
        await wait_all_tasks_blocked()
        assert await receive_exactly(pair.server, LARGE_BYTES) == data


async def test_a_file_follows_its_header(network: Network, disk: Disk) -> None:
    file = disk.files.open(disk.write("a", pattern(5000)))
    async with connected(network) as pair:
        await pair.client.send_all([b"head", b"er"], more=True)
        await pair.client.send_file(file, 1000, 2500)
        await pair.client.send_file(file, 10, 0)
        await pair.client.send_all([b"end"])
        assert await receive_exactly(pair.server, 2509) == b"header" + pattern(5000)[1000:3500] + b"end"
    file.close()


async def test_a_large_file_arrives_whole(network: Network, disk: Disk) -> None:
    file = disk.files.open(disk.write("a", pattern(LARGE_BYTES)))
    async with connected(network) as pair, trio.open_nursery() as nursery:
        nursery.start_soon(pair.client.send_file, file, 1, LARGE_BYTES - 1)
        await wait_all_tasks_blocked()
        assert await receive_exactly(pair.server, LARGE_BYTES - 1) == pattern(LARGE_BYTES)[1:]
    file.close()


async def test_a_file_that_ends_too_early_breaks_the_connection_and_does_not_hang(
    network: Network, disk: Disk
) -> None:
    file = disk.files.open(disk.write("a", b"12345"))
    async with connected(network) as pair:
        with pytest.raises(ConnectionLost, match="early"):
            await pair.client.send_file(file, 0, 6)
        with pytest.raises(ConnectionLost, match="early"):
            await pair.client.send_file(file, 100, 1)
    file.close()


async def test_a_cancelled_receive_took_nothing(network: Network) -> None:
    async with connected(network) as pair:
        buffer = bytearray(10)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.server.receive_into, buffer)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert buffer == bytes(10)
        await pair.client.send_all([b"all of it"])
        assert await receive_exactly(pair.server, 9) == b"all of it"


async def do(pair: Pair, what: str, file: File) -> None:
    """Something that waits for the other side."""
    if what == "receive":
        await pair.client.receive_into(bytearray(1))
    elif what == "send":
        await pair.client.send_all([bytes(LARGE_BYTES)])
    elif what == "send many":
        await pair.client.send_all([bytes(LARGE_BYTES), b""])
    elif what == "send file":
        await pair.client.send_file(file, 0, LARGE_BYTES)
    else:
        await pair.listener.accept()


async def fails(pair: Pair, what: str, disk: Disk) -> None:
    file = disk.files.open(disk.write("large", bytes(LARGE_BYTES)))
    with pytest.raises(ConnectionLost):
        await do(pair, what, file)
    file.close()


@pytest.mark.parametrize("what", ["receive", "send", "send many", "send file", "accept"])
async def test_closing_wakes_who_waits(network: Network, disk: Disk, what: str) -> None:
    async with connected(network) as pair, trio.open_nursery() as nursery:
        nursery.start_soon(fails, pair, what, disk)
        await wait_all_tasks_blocked()
        (pair.listener if what == "accept" else pair.client).close()


@pytest.mark.parametrize("what", ["receive", "send", "send many", "send file", "accept"])
async def test_what_is_closed_is_lost_and_closing_twice_is_allowed(
    network: Network, disk: Disk, what: str
) -> None:
    async with connected(network) as pair:
        for end in (pair.client, pair.listener):
            end.close()
            end.close()
        await fails(pair, what, disk)


async def test_sending_to_a_peer_that_left_ends_in_an_error(network: Network) -> None:
    async with connected(network) as pair:
        pair.server.close()

        async def send_for_ever() -> None:
            while True:
                await pair.client.send_all([bytes(1000)])
                await trio.lowlevel.checkpoint()

        with pytest.raises(ConnectionLost):
            await send_for_ever()


async def test_what_can_be_met_at_once_does_not_yield(network: Network, disk: Disk) -> None:
    file = disk.files.open(disk.write("a", b"12345"))
    async with connected(network) as pair:
        await pair.server.send_all([b"there"])
        with trio.testing.assert_no_checkpoints():
            await pair.client.receive_into(bytearray(5))
            await pair.client.send_all([b"a"])
            await pair.client.send_all([b"a", b"b"], more=True)
            await pair.client.send_file(file, 0, 5)
    file.close()


async def test_what_is_sent_now_arrives_in_order_and_no_more_than_fits(network: Network) -> None:
    data = pattern(LARGE_BYTES)
    async with connected(network) as pair, trio.open_nursery() as nursery:
        with trio.testing.assert_no_checkpoints():
            assert pair.client.send_now([b"a", b"", b"bc"]) == 3
            sent = pair.client.send_now([memoryview(data)])
            assert 0 < sent < LARGE_BYTES, "nobody reads yet"
            while (more := pair.client.send_now([memoryview(data)[sent:]])) > 0:
                sent += more
        nursery.start_soon(pair.client.send_all, [memoryview(data)[sent:]])
        assert await receive_exactly(pair.server, 3 + LARGE_BYTES) == b"abc" + data


async def test_nothing_is_sent_now_on_what_is_closed(network: Network) -> None:
    async with connected(network) as pair:
        pair.client.close()
        with pytest.raises(ConnectionLost):
            pair.client.send_now([b"a"])


async def test_each_side_knows_the_other_by_name(network: Network) -> None:
    async with connected(network) as pair:
        host, port = pair.listener.address
        assert host == HOST
        assert pair.client.peer == f"{HOST}:{port}"
        assert pair.server.peer.startswith(f"{HOST}:")
        assert pair.server.peer != pair.client.peer


async def test_connections_wait_until_they_are_accepted(network: Network) -> None:
    listener = await network.listen(HOST, 0)
    clients = [await network.connect(*listener.address) for _ in range(5)]
    servers = [await listener.accept() for _ in range(5)]
    assert len({server.peer for server in servers}) == 5
    listener.close()
    for end in [*clients, *servers]:
        end.close()


async def test_one_port_has_one_listener(network: Network) -> None:
    listener = await network.listen(HOST, 0)
    with pytest.raises(AddressError, match=str(listener.address[1])):
        await network.listen(*listener.address)
    listener.close()
    again = await network.listen(*listener.address)
    again.close()


async def test_a_port_that_is_only_held_refuses_and_does_not_keep_waiting(network: Network) -> None:
    held = await network.listen(HOST, 0, is_open=False)
    with pytest.raises(AddressError, match=str(held.address[1])):
        await network.connect(*held.address)
    held.open()
    held.open()
    client = await network.connect(*held.address)
    server = await held.accept()
    for end in (client, server, held):
        end.close()


async def test_where_nobody_listens_nobody_answers(network: Network) -> None:
    listener = await network.listen(HOST, 0)
    listener.close()
    with pytest.raises(AddressError, match=str(listener.address[1])):
        await network.connect(*listener.address)
