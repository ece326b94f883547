"""The simulated machine itself: what freezes stands still, what is cut does not get through, what is lost stays lost."""

from contextlib import suppress

import pytest
import trio
from tests.simulation.cluster import Cluster
from tests.simulation.host import Host
from tests.simulation.kernel import Kernel
from tests.simulation.network import SimulatedNetwork
from tests.simulation.operating import repair
from tests.simulation.store import ADDRESS, RECONNECT_S, CentralStore
from tests.support.crashes.clients import is_too_small_to_tell
from tests.support.logs import NOW_MS, PARENT, TOPIC_ID, append, batch, read_values
from tests.support.simulated_disk import SimulatedDisk

from penstock.runtime.environment import Environment
from penstock.runtime.files import DiskError
from penstock.runtime.metadata import Compare, OutcomeUnknown, Put
from penstock.runtime.network import ConnectionLost
from penstock.storage.data_directory import DataDirectory
from penstock.storage.errors import CorruptBatch
from penstock.storage.log import Log
from penstock.storage.log_config import LogConfig


class Machines:
    """Two hosts, and what their programs noted."""

    def __init__(self) -> None:
        self.kernel = Kernel(1)
        self.network = SimulatedNetwork(self.kernel)
        self.store = CentralStore(self.kernel)
        self.one, self.two = (
            Host(self.kernel, self.network, self.store, name, f"10.0.0.{number}")
            for number, name in enumerate(("one", "two"), 1)
        )
        self.noted: list[tuple[str, float]] = []

    def note(self, what: str) -> None:
        self.noted.append((what, round(trio.current_time(), 1)))

    async def echo(self, environment: Environment) -> None:
        """Sends back what comes, on one connection."""
        listener = await environment.network.listen("10.0.0.2", 9092)
        stream = await listener.accept()
        buffer = bytearray(100)
        while count := await stream.receive_into(buffer):
            self.note("echo")
            await stream.send_all([bytes(buffer[:count])])

    async def ask(self, environment: Environment) -> None:
        """Asks once a second."""
        stream = await environment.network.connect("10.0.0.2", 9092)
        buffer = bytearray(100)
        try:
            while True:
                await stream.send_all([b"hello"])
                if not await stream.receive_into(buffer):
                    self.note("end")
                    return
                self.note("answer")
                await trio.sleep(1)
        except ConnectionLost:
            self.note("lost")


def test_frozen_process_does_nothing_and_goes_on_where_it_was() -> None:
    machines = Machines()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            machines.two.boot(nursery, machines.echo)
            await trio.sleep(0.1)
            machines.one.boot(nursery, machines.ask)
            await trio.sleep(1.5)
            machines.two.freeze()
            await trio.sleep(5)
            machines.two.thaw()
            await trio.sleep(1)
            machines.one.kill()
            machines.two.kill()

    machines.kernel.run(main)
    echoes = [at for what, at in machines.noted if what == "echo"]
    assert [at for at in echoes if 1.6 < at < 6.6] == []
    assert 6.6 in echoes


def test_cut_in_one_direction_holds_the_answers_only() -> None:
    machines = Machines()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            machines.two.boot(nursery, machines.echo)
            await trio.sleep(0.1)
            machines.one.boot(nursery, machines.ask)
            await trio.sleep(0.5)
            machines.network.link("10.0.0.2", "10.0.0.1").cut()
            await trio.sleep(3)
            machines.network.link("10.0.0.2", "10.0.0.1").mend()
            await trio.sleep(4)
            machines.one.kill()
            machines.two.kill()

    machines.kernel.run(main)
    during = {what for what, at in machines.noted if 0.7 < at < 3.5}
    after = {what for what, at in machines.noted if at > 3.5}
    assert during == {"echo"}
    assert after == {"echo", "answer"}


def test_peer_without_power_says_nothing_and_a_killed_one_resets() -> None:
    for is_silent in (True, False):
        machines = Machines()

        async def main(machines: Machines = machines, is_silent: bool = is_silent) -> None:
            async with trio.open_nursery() as nursery:
                machines.two.boot(nursery, machines.echo)
                await trio.sleep(0.1)
                machines.one.boot(nursery, machines.ask)
                await trio.sleep(0.5)
                (machines.two.cut_power if is_silent else machines.two.kill)()
                await trio.sleep(5)
                machines.note("later")
                machines.one.kill()

        machines.kernel.run(main)
        lost_at = [at for what, at in machines.noted if what == "lost" and at < 5]
        assert lost_at == ([] if is_silent else [1.1])


def test_store_applies_what_it_was_sent_though_the_reply_is_lost() -> None:
    machines = Machines()

    async def program(environment: Environment) -> None:
        async with environment.open_metadata("") as store:
            machines.network.link(ADDRESS, "10.0.0.1").cut()
            try:
                await store.transact([Compare("/k", mod_revision=0)], [Put("/k", b"v")])
            except OutcomeUnknown:
                machines.note("unknown")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            machines.one.boot(nursery, program)

    machines.kernel.run(main)
    assert [what for what, _ in machines.noted] == ["unknown"]
    assert machines.store.entries["/k"].value == b"v"


def test_connection_that_breaks_before_a_reply_holds_the_watch_back_and_loses_nothing_of_it() -> None:
    machines = Machines()

    async def program(environment: Environment) -> None:
        async with (
            environment.open_metadata("") as store,
            store.watch("/", after_revision=0) as batches,
        ):
            assert machines.one.front is not None
            machines.one.front.loss_chance = 0.5
            for number in range(20):
                with suppress(OutcomeUnknown):
                    await store.transact([], [Put(f"/{number}", b"v")])
                    continue
                if f"/{number}" in machines.store.entries:
                    break
            machines.note("unknown")
            revisions = [(await anext(batches)).revision for _ in range(machines.store.revision)]
            assert revisions == list(range(1, machines.store.revision + 1))
            machines.note("seen")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            machines.one.boot(nursery, program)

    machines.kernel.run(main)
    assert machines.one.failure is None
    (_, unknown_at), (_, seen_at) = machines.noted
    assert seen_at >= unknown_at + min(RECONNECT_S)


def test_device_that_fails_syncs_only_takes_what_is_written_and_loses_it_with_the_power() -> None:
    machines, data = Machines(), b"x" * 100_000

    async def program(environment: Environment) -> None:
        file = environment.files.open("/f", write=True, create=True)
        environment.files.sync_directory("/")
        machines.one.faults.sync_error_chance = 1.0
        file.pwrite(data, 0)
        with pytest.raises(DiskError):
            file.datasync()
        machines.one.faults.sync_error_chance = 0.0
        file.datasync()
        await trio.lowlevel.checkpoint()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            machines.one.boot(nursery, program)

    machines.kernel.run(main)
    assert machines.one.failure is None
    assert machines.one.disk.content("/f") == data
    machines.one.disk.power_cut()
    assert machines.one.disk.content("/f") != data


def test_lease_ends_while_its_owner_is_frozen() -> None:
    machines = Machines()

    async def program(environment: Environment) -> None:
        async with environment.open_metadata("") as store:
            lease = await store.grant_lease(2)
            await store.transact([], [Put("/k", b"v", lease)])
            while True:
                await trio.sleep(0.5)
                await store.keep_alive(lease)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            machines.one.boot(nursery, program)
            await trio.sleep(5)
            assert "/k" in machines.store.entries
            machines.one.freeze()
            await trio.sleep(3)
            assert "/k" not in machines.store.entries
            machines.one.kill()

    machines.kernel.run(main)


def test_nothing_left_to_happen_is_told_instead_of_waiting_for_ever() -> None:
    kernel = Kernel(1)
    told: list[str] = []

    async def main() -> None:
        with trio.CancelScope() as scope:

            def stuck(why: str) -> None:
                told.append(why)
                scope.cancel()

            kernel.stuck_listener = stuck
            await trio.sleep_forever()

    kernel.run(main)
    assert told == ["no task can run and nothing will ever happen"]


def test_loop_without_time_is_told_instead_of_burning_a_core() -> None:
    kernel = Kernel(1)
    told: list[str] = []

    async def main() -> None:
        with trio.CancelScope() as scope:

            def stuck(why: str) -> None:
                told.append(why)
                scope.cancel()

            kernel.stuck_listener = stuck
            while True:
                await trio.lowlevel.checkpoint()

    kernel.run(main)
    assert "turns of the event loop" in told[0]


def test_the_store_of_a_cluster_is_one_for_all_hosts() -> None:
    kernel = Kernel(1)
    cluster = Cluster(kernel, 3)
    assert [host.node_id for host in cluster.brokers] == [1, 2, 3]
    assert len({id(host.store) for host in cluster.brokers}) == 1


def test_operator_can_not_mend_what_is_taken_for_a_flipped_bit() -> None:
    disk = SimulatedDisk()

    def opened() -> Log:
        return DataDirectory.open(disk, PARENT, 1).open_log("cached", 0, TOPIC_ID, LogConfig(), NOW_MS)

    log = opened()
    for _ in range(255):
        append(log, batch([b"x"]))
    overhead = len(batch([bytes(500)])) - 500
    append(log, batch([bytes((505 - log.segments[0].size_bytes - overhead) % 512 + 512)]))
    position = log.segments[0].size_bytes
    assert (log.log_end_offset, position % 512) == (256, 505)
    for _ in range(3):
        append(log, batch([b"y"]))
    file = disk.open(log.segments[0].path, write=True)
    file.pwrite(bytes(7), position)
    disk.kill()
    with pytest.raises(CorruptBatch, match="good batch follows") as caught:
        opened()
    disk.kill()
    assert is_too_small_to_tell(disk, caught.value)
    repair(disk, PARENT, ("cached", 0), NOW_MS)
    disk.kill()
    log = opened()
    assert read_values(log)[256:] == [(256, b"y"), (257, b"y"), (258, b"y")]
