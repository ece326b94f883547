"""What goes wrong: a subset of faults for each seed ("swarm testing": what never happens together with what else hides bugs), at random moments.

Every fault ends by itself some time later; `heal` ends all at once. Media damage strikes one replica's host at most.
"""

from collections import Counter
from collections.abc import Callable
from random import Random

import trio
from tests.simulation.cluster import BrokerHost, Cluster
from tests.simulation.network import Link
from tests.simulation.store import ADDRESS as STORE

FAULTS = (
    "kill",
    "power cut",
    "power cut of all",
    "stop",
    "freeze",
    "partition",
    "one-way cut",
    "store cut off",
    "reset",
    "slow link",
    "slow disk",
    "full disk",
    "disk error",
    "no descriptors",
    "clock jump",
    "store down",
    "flaky store",
    "power cut after a kill",
    "store compaction",
    "stale watch",
    "client cut off",
    "client freeze",
    "client kill",
)
DAY_MS = 86_400_000
RESTART_MAX_S = 5.0


class Nemesis:
    """See the module."""

    def __init__(
        self,
        cluster: Cluster,
        nursery: trio.Nursery,
        random: Random,
        *,
        faults: tuple[str, ...] | None = None,
    ) -> None:
        self.cluster = cluster
        self.random = random
        self.counts: Counter[str] = Counter()
        self.chosen = tuple(name for name in FAULTS if random.random() < 0.45) if faults is None else faults
        self.gap_s = random.choice((0.4, 1.0, 2.0))
        self.excused: Callable[[str], None] = lambda _: None
        """Told of clients that die or freeze."""
        self.restart_client: Callable[[str], None] = lambda _: None
        self._nursery = nursery
        self._undo: dict[int, Callable[[], None]] = {}
        self._undo_count = 0
        self._has_healed = False

    @property
    def count(self) -> int:
        """Faults so far."""
        return sum(self.counts.values())

    async def rage(self, until_s: float) -> None:
        """One fault after another until then."""
        while self.chosen and self.cluster.kernel.now < until_s:
            await trio.sleep(self.random.expovariate(1 / self.gap_s))
            self.strike(self.random.choice(self.chosen))

    async def keep_up(self) -> None:
        """Restart brokers that have died, as a service manager does; for ever."""
        while True:
            await trio.sleep(0.25)
            for host in self.cluster.brokers:
                if not host.is_up and (self._has_healed or self.random.random() < 0.15):
                    self.cluster.boot(self._nursery, host)

    def strike(self, name: str) -> None:
        """One fault."""
        cluster, random = self.cluster, self.random
        host = random.choice(cluster.brokers)
        self.counts[name] += 1
        cluster.kernel.note(f"fault {name} {host.name}")
        method = getattr(self, "_" + name.replace(" ", "_").replace("-", "_"))
        method(host)

    def heal(self) -> None:
        """End every fault, and restart what is dead."""
        self.cluster.kernel.note("heal")
        self._has_healed = True
        for number in sorted(self._undo):
            self._undo[number]()
        self._undo.clear()
        for host in (*self.cluster.brokers, *self.cluster.clients):
            host.thaw()

    def _for_a_while(self, undo: Callable[[], None], low_s: float, high_s: float) -> None:
        self._undo_count += 1
        number = self._undo_count
        self._undo[number] = undo

        def end() -> None:
            if self._undo.pop(number, None) is not None:
                undo()

        self.cluster.kernel.after(self.random.uniform(low_s, high_s), end)

    # Processes

    def _kill(self, host: BrokerHost) -> None:
        host.kill()

    def _power_cut(self, host: BrokerHost) -> None:
        host.cut_power()

    def _power_cut_of_all(self, host: BrokerHost) -> None:
        if self.random.random() < 0.3:
            for one in self.cluster.brokers:
                one.cut_power()
        else:
            host.cut_power()

    def _power_cut_after_a_kill(self, host: BrokerHost) -> None:
        """What a killed process left in the page cache goes with the power a little later, unless it was synced meanwhile."""
        host.kill()
        self.cluster.kernel.after(self.random.uniform(0.3, 4.0), host.cut_power)

    def _stop(self, host: BrokerHost) -> None:
        if host.is_up:
            host.stop()

    def _freeze(self, host: BrokerHost) -> None:
        if host.is_up and not host.is_frozen:
            host.freeze()
            self._for_a_while(host.thaw, 0.3, 9.0)

    # Network

    def _cut(self, links: list[Link], low_s: float, high_s: float) -> None:
        for link in links:
            link.cut()

        def mend() -> None:
            for link in links:
                link.mend()

        self._for_a_while(mend, low_s, high_s)

    def _addresses(self) -> list[str]:
        return [host.address for host in (*self.cluster.brokers, *self.cluster.clients)] + [STORE]

    def _partition(self, _: BrokerHost) -> None:
        side = [address for address in self._addresses() if self.random.random() < 0.5]
        network = self.cluster.network
        pairs = [(a, b) for a in side for b in self._addresses() if b not in side]
        self._cut([link for a, b in pairs for link in (network.link(a, b), network.link(b, a))], 0.5, 9.0)

    def _one_way_cut(self, host: BrokerHost) -> None:
        other = self.random.choice([address for address in self._addresses() if address != host.address])
        pair = (host.address, other) if self.random.random() < 0.5 else (other, host.address)
        self._cut([self.cluster.network.link(*pair)], 0.5, 9.0)

    def _store_cut_off(self, host: BrokerHost) -> None:
        network = self.cluster.network
        links = [network.link(host.address, STORE), network.link(STORE, host.address)]
        self._cut(self.random.choice((links, links[:1], links[1:])), 0.5, 9.0)

    def _client_cut_off(self, _: BrokerHost) -> None:
        if not self.cluster.clients:
            return
        client = self.random.choice(self.cluster.clients)
        network = self.cluster.network
        links = [network.link(client.address, host.address) for host in self.cluster.brokers]
        links += [network.link(host.address, client.address) for host in self.cluster.brokers]
        self._cut(links, 0.5, 9.0)

    def _reset(self, host: BrokerHost) -> None:
        self.cluster.network.reset_all(host.address)

    def _slow_link(self, host: BrokerHost) -> None:
        others = [other for other in self.cluster.brokers if other is not host]
        link = self.cluster.network.link(host.address, self.random.choice(others).address)
        link.delay_s = self.random.choice((0.05, 0.3, 1.0))
        link.bytes_per_s = self.random.choice((0.0, 20_000.0))

        def restore() -> None:
            link.delay_s, link.bytes_per_s = 0.0002, 0.0

        self._for_a_while(restore, 0.5, 6.0)

    # Disks and clocks

    def _slow_disk(self, host: BrokerHost) -> None:
        host.faults.slow_s = self.random.choice((0.05, 0.3, 1.5))
        self._for_a_while(lambda: setattr(host.faults, "slow_s", 0.0), 0.5, 6.0)

    def _full_disk(self, host: BrokerHost) -> None:
        host.faults.is_full = True
        self._for_a_while(lambda: setattr(host.faults, "is_full", False), 0.3, 4.0)

    def _disk_error(self, host: BrokerHost) -> None:
        """Of all that is done with it; or of syncs only, which is what a page cache makes of most bad writes."""
        if self.random.random() < 0.5:
            host.faults.error_chance = self.random.choice((0.01, 0.05))
            self._for_a_while(lambda: setattr(host.faults, "error_chance", 0.0), 0.2, 2.0)
        else:
            host.faults.sync_error_chance = self.random.choice((0.05, 0.3))
            self._for_a_while(lambda: setattr(host.faults, "sync_error_chance", 0.0), 0.2, 2.0)

    def _no_descriptors(self, host: BrokerHost) -> None:
        machine = self.cluster.network.machine(host.address)
        host.faults.has_descriptors = machine.has_descriptors = False

        def restore() -> None:
            host.faults.has_descriptors = machine.has_descriptors = True

        self._for_a_while(restore, 0.2, 3.0)

    def _clock_jump(self, host: BrokerHost) -> None:
        host.clock.wall_offset_ms += self.random.choice((-DAY_MS, DAY_MS, -3_600_000, 3_600_000, 5_000))

    # The store

    def _store_down(self, _: BrokerHost) -> None:
        store = self.cluster.store
        store.is_up = False
        self._for_a_while(lambda: setattr(store, "is_up", True), 0.3, 6.0)

    def _flaky_store(self, host: BrokerHost) -> None:
        front = host.front
        if front is not None:
            front.loss_chance = self.random.choice((0.1, 0.4))
            self._for_a_while(lambda: setattr(front, "loss_chance", 0.0), 0.5, 6.0)

    def _store_compaction(self, _: BrokerHost) -> None:
        self.cluster.store.compact()

    def _stale_watch(self, host: BrokerHost) -> None:
        front = host.front
        if front is not None:
            front.watch_lag_s = self.random.choice((0.2, 1.0, 4.0))
            self._for_a_while(lambda: setattr(front, "watch_lag_s", 0.0), 0.5, 6.0)

    # Clients

    def _client_freeze(self, _: BrokerHost) -> None:
        client = self.random.choice(self.cluster.clients)
        if client.is_up and not client.is_frozen:
            self.excused(client.name)
            client.freeze()
            self._for_a_while(client.thaw, 0.5, 9.0)

    def _client_kill(self, _: BrokerHost) -> None:
        client = self.random.choice(self.cluster.clients)
        if (
            client.is_up
            and not client.is_frozen
            and client.name.partition("-")[0] in ("billing", "audit", "reader")
        ):
            self.excused(client.name)
            client.kill()
            self.restart_client(client.name)


__all__ = ["FAULTS", "Nemesis"]
