"""Looks at brokers and store while they run, and tells the checkers.

Two places are looked at: every step of a partition (`Partition._do` is wrapped while a run lasts; production code knows nothing of it), and every
transaction in the moment the store applies it. Besides, a look at everything twice in a simulated second.

What this module knows is more than anybody in the cluster does: what all logs hold, of those who are dead, too.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import trio
from tests.simulation import bounded
from tests.simulation.bounded import Bounded
from tests.simulation.checkers.clients import LogStarts
from tests.simulation.checkers.logs import CommittedBatches, Truncations
from tests.simulation.checkers.metadata import Views
from tests.simulation.checkers.replication import (
    Deadlines,
    HighWatermarks,
    Laggards,
    Leaders,
    State,
    StateChanges,
)
from tests.simulation.checkers.report import Report
from tests.simulation.cluster import BrokerHost, Cluster
from tests.simulation.kernel import PROCESS
from tests.simulation.logs_read import batches_in
from tests.simulation.store import Applied

from penstock.broker import keys
from penstock.broker.partition import Partition
from penstock.broker.partition_machine import Role
from penstock.errors import PenstockError
from penstock.storage.log import Log

LOOK_S = 0.5


class End(NamedTuple):
    """Where a replica's log ends."""

    log_end_offset: int
    """If its log has failed, only what was synced is sure to be there."""
    durable_end_offset: int
    told_end_offset: int
    """What it may have told its leader. It counts, with `write.caching`, also when the log has failed since, until the replica has left the ISR."""


@dataclass(slots=True)
class _Seen:
    """A partition of one process, as it was after its last step."""

    host: BrokerHost
    place: str
    replica: str
    log: Log
    role: Role
    epoch: int
    high_watermark: int
    end_offset: int
    start_offset: int
    led_since_s: float | None = None
    """Since when it leads, or led when it did so last."""


class _OrderedSet(dict[Any, None]):
    """In place of sets of callables, which are iterated by address: who waits is told in the order of the questions, in every run."""

    def add(self, one: object) -> None:
        self[one] = None

    def discard(self, one: object) -> None:
        self.pop(one, None)


class Observer:
    """See the module."""

    def __init__(self, cluster: Cluster, report: Report, *, lag_limit_s: float) -> None:
        self.cluster = cluster
        self.report = report
        self.committed = CommittedBatches(report)
        self.states: dict[tuple[bytes, int], State] = {}
        """As the store has them now."""
        self.names: dict[bytes, str] = {}
        self.election_count = 0
        self.isr_change_count = 0
        self._watermarks = HighWatermarks(report)
        self._leaders = Leaders(report)
        self._changes = StateChanges(report)
        self._deadlines = Deadlines(report)
        self._laggards = Laggards(report, lag_limit_s)
        self._truncations = Truncations(report)
        self._starts = LogStarts(report)
        self.views = Views(report)
        self.bounded: Bounded | None = None
        """Told of what leaders append to the bounded topic, and of where its logs begin."""
        self._seen: dict[Partition, _Seen] = {}
        self._ends: dict[tuple[int, bytes, int], End] = {}
        """Of replicas whose process is dead: what is left at least."""
        self._given_up: set[Partition] = set()
        """Those that were seen outside of the ISR after their log had failed: nothing that they told before counts any more."""
        self._caching: set[bytes] = set()
        self._power_was_cut = False
        cluster.store.applied_listeners.append(self._applied)
        for host in cluster.brokers:
            host.before_death.append(partial(self._dies, host))

    def place(self, topic_id: bytes, index: int) -> str:
        """A name for a partition that no other one ever has."""
        return f"{self.names.get(topic_id, '?')}/{topic_id[:2].hex()}-{index}"

    def is_kept(self, topic_id: bytes) -> bool:
        """Whether what was committed must still be there: with write.caching a power cut may take it from all at once."""
        return topic_id not in self._caching or not self._power_was_cut

    @contextmanager
    def watching(self) -> Generator[None]:
        """Look at every step of every partition."""
        original: Any = vars(Partition)["_do"]

        def observed(partition: Partition, actions: tuple[object, ...]) -> None:
            original(partition, actions)
            self.stepped(partition)

        original_init: Any = vars(Partition)["__init__"]

        def ordered_init(partition: Any, *args: Any, **more: Any) -> None:
            original_init(partition, *args, **more)
            partition.fetch_waiters, partition.replica_waiters = _OrderedSet(), _OrderedSet()

        original_cut: Any = vars(Partition)["advance_log_start"]

        def observed_cut(partition: Any, offset: int) -> None:
            original_cut(partition, offset)
            seen = self._seen.get(partition)
            if seen is not None:
                self._check_start(partition, seen)

        setattr(Partition, "advance_log_start", observed_cut)  # noqa: B010
        setattr(Partition, "_do", observed)  # noqa: B010
        setattr(Partition, "__init__", ordered_init)  # noqa: B010
        try:
            yield
        finally:
            setattr(Partition, "advance_log_start", original_cut)  # noqa: B010
            setattr(Partition, "_do", original)  # noqa: B010
            setattr(Partition, "__init__", original_init)  # noqa: B010

    async def look_around(self) -> None:
        """For ever, now and then."""
        while True:
            await trio.sleep(LOOK_S)
            for host in self.cluster.brokers:
                if host.broker is not None:
                    self.views.looked(repr(host.process), host.broker.image)
                for partition in host.partitions:
                    self._look(host, partition)

    # A step

    def stepped(self, partition: Partition) -> None:
        """A partition has done something."""
        process = PROCESS.get()
        seen = self._seen.get(partition)
        if process is not None and process.is_dead:
            return
        machine = partition.machine
        if seen is None:
            if process is None:  # trio's own task, for `run_sync_soon`
                return
            host = next(host for host in self.cluster.brokers if host.name == process.name)
            place = self.place(partition.topic_id, partition.index)
            left = self._ends.pop((host.node_id, partition.topic_id, partition.index), None)
            self._check_recovered(partition, place, repr(process), left)
            seen = self._seen[partition] = _Seen(
                host,
                place,
                repr(process),
                partition.log,
                Role.OFFLINE,
                -1,
                machine.high_watermark,
                partition.log.log_end_offset,
                partition.log.log_start_offset,
            )
        if machine.write_caching:
            self._caching.add(partition.topic_id)
        if machine.role is Role.LEADER and (
            seen.epoch != machine.leader_epoch or seen.role is not Role.LEADER
        ):
            self._leaders.leads(seen.place, machine.leader_epoch, seen.replica)
            seen.led_since_s = self.cluster.kernel.now
            if self.bounded is not None and partition.topic == bounded.NAME:
                self.bounded.leads(partition.index, partition.log.log_start_offset)
        self._check_start(partition, seen)
        self._check_end(partition, seen)
        if partition.high_watermark != seen.high_watermark:
            self._moved(partition, seen)
        seen.role, seen.epoch = machine.role, machine.leader_epoch
        seen.high_watermark = partition.high_watermark

    def _check_recovered(self, partition: Partition, place: str, replica: str, left: End | None) -> None:
        """D9: a start finds what a kill left, or what was synced before the power went.

        A log that begins anew was damaged. Nothing here damages what was synced; with write.caching, what a power cut took looks like it.
        """
        log = partition.log
        begins_anew = log.log_end_offset == log.log_start_offset
        if left is not None and not (begins_anew and partition.topic_id in self._caching):
            self.report.check(
                "D9",
                log.log_end_offset >= left.log_end_offset,
                f"{place}: {replica} starts with a log that ends at {log.log_end_offset}; {left.log_end_offset} was left",
            )

    def _check_end(self, partition: Partition, seen: _Seen) -> None:
        end = partition.log.log_end_offset
        if end < seen.end_offset and partition.log is seen.log:
            self.cluster.kernel.note(f"truncation {seen.place} {seen.replica} {seen.end_offset} {end}")
            self._truncations.cut(seen.place, seen.replica, seen.end_offset, end, seen.high_watermark)
        elif end > seen.end_offset and self.bounded is not None and partition.topic == bounded.NAME:
            machine = partition.machine
            led_since_s = seen.led_since_s
            if (
                led_since_s is not None
                and machine.role is seen.role is Role.LEADER
                and machine.leader_epoch == seen.epoch
            ):
                start = partition.log.log_start_offset
                self.bounded.appended(partition.index, seen.replica, led_since_s, start, end)
        seen.log, seen.end_offset = partition.log, end

    def _check_start(self, partition: Partition, seen: _Seen) -> None:
        start = partition.log.log_start_offset
        if start > seen.start_offset and self.bounded is not None and partition.topic == bounded.NAME:
            self.bounded.cut(
                partition.index, seen.replica, seen.led_since_s, start, leads=partition.is_leader
            )
        seen.start_offset = start

    def _moved(self, partition: Partition, seen: _Seen) -> None:
        machine = partition.machine
        self._watermarks.seen(seen.place, seen.replica, machine.leader_epoch, partition.high_watermark)
        counted = partition.log.log_end_offset if machine.write_caching else partition.log.durable_end_offset
        self.report.check(
            "D3",
            partition.high_watermark <= max(counted, partition.log.log_start_offset),
            f"{seen.place}: {seen.replica}'s high watermark {partition.high_watermark} is above {counted}, where its log counts",
        )
        if machine.role is not Role.LEADER or partition.high_watermark <= seen.high_watermark:
            return
        if self.is_kept(partition.topic_id):
            self._check_members(partition, seen)
            self._commit(partition, seen)
        self._check_lease(partition, seen)

    def _check_lease(self, partition: Partition, seen: _Seen) -> None:
        """M2, by the broker's own deadline, and by the store, which knows better."""
        broker = seen.host.broker
        if broker is None:
            return
        what = f"moved the high watermark of {seen.place}"
        now = self.cluster.kernel.now
        self._deadlines.decided(what, seen.replica, now, broker.registration.deadline)
        entry = self.cluster.store.entries.get(keys.broker_key(seen.host.node_id))
        is_registered = entry is not None and entry.create_revision == broker.registration.create_revision
        self._deadlines.decided(
            f"{what} (its registration is gone)", seen.replica, now, now if is_registered else -1.0
        )

    def _check_members(self, partition: Partition, seen: _Seen) -> None:
        machine = partition.machine
        members = set(machine.maximal_isr)
        stored = self.states.get((partition.topic_id, partition.index))
        if stored is not None and (stored.leader, stored.leader_epoch) == (
            machine.broker_id,
            machine.leader_epoch,
        ):
            members |= set(stored.isr)
        ends = {node: self._counted_end(node, partition) for node in sorted(members)}
        known = {node: end for node, end in ends.items() if end is not None}
        needed = 1
        if stored is not None:
            needed = min(machine.min_insync_replicas, len(stored.replicas) - stored.adding_count)
        self._watermarks.advanced(
            seen.place,
            seen.replica,
            partition.high_watermark,
            known,
            len(machine.isr),
            min(needed, len(machine.replicas)),
        )

    def _commit(self, partition: Partition, seen: _Seen) -> None:
        if partition.log.config.compact:
            return
        files: Any = seen.host.files
        offset = seen.high_watermark
        with files.observed():
            while offset < partition.high_watermark:
                try:
                    found = partition.log.read(offset, 1 << 20, partition.high_watermark, resident_only=False)
                except PenstockError:
                    return
                with found:
                    batches = [batch for batch, _ in batches_in(found.read())]
                if not batches:
                    return
                self.committed.commit(seen.place, batches, seen.replica)
                offset = batches[-1].end_offset

    # What others have

    def _counted_end(self, node: int, partition: Partition) -> int | None:
        """Up to where that broker's replica counts; None where nothing can be said."""
        end = self._end(node, partition.topic_id, partition.index)
        if end is None:
            return None
        return end.told_end_offset if partition.machine.write_caching else end.durable_end_offset

    def _end(self, node: int, topic_id: bytes, index: int) -> End | None:
        host = self.cluster.by_node(node)
        if host.is_up and host.broker is not None:
            partition = host.broker.partitions.by_id(topic_id, index)
            if partition is not None:
                return self._end_of(partition, is_lost=partition.is_offline)
        elif host.is_up:  # it is still coming up: its replicas fetch already
            for partition, seen in self._seen.items():
                if seen.host is host and (partition.topic_id, partition.index) == (topic_id, index):
                    return self._end_of(partition, is_lost=False)
        return self._ends.get((node, topic_id, index))

    def _end_of(self, partition: Partition, *, is_lost: bool) -> End:
        told, durable = partition.log.log_end_offset, partition.log.durable_end_offset
        left = durable if is_lost else told
        return End(left, min(durable, left), left if partition in self._given_up else told)

    def _dies(self, host: BrokerHost, loses_power: bool) -> None:
        self._power_was_cut |= loses_power
        for key, left in self._ends.items():
            if loses_power and key[0] == host.node_id:
                self._ends[key] = End(*[left.durable_end_offset] * 3)
        for partition, seen in self._seen.items():
            if seen.host is host:
                is_lost = loses_power or partition.log.failure is not None
                end = self._end_of(partition, is_lost=is_lost)
                self._ends[host.node_id, partition.topic_id, partition.index] = end
                self._given_up.discard(partition)
        self._seen = {partition: seen for partition, seen in self._seen.items() if seen.host is not host}

    # The store

    def _applied(self, applied: Applied) -> None:
        self.views.stored(applied.batch.revision, self.cluster.store.entries)
        for event in applied.batch.events:
            if event.key.startswith(keys.TOPICS_PREFIX) and event.entry is not None:
                topic = keys.decode_topic(event.key, event.entry.value)
                self.names[topic.topic_id] = keys.parse_topic_key(event.key)
        for event in applied.batch.events:
            if event.key.startswith(keys.PARTITIONS_PREFIX):
                self._state_changed(event.key, applied)

    def _state_changed(self, key: str, applied: Applied) -> None:
        topic_id, index = place_key = keys.parse_partition_key(key)
        entry = next(event.entry for event in applied.batch.events if event.key == key)
        if entry is None:
            self.states.pop(place_key, None)
            return
        state = keys.decode_partition(key, entry.value)
        after = State(
            state.replicas,
            state.isr,
            state.leader,
            state.leader_epoch,
            state.eligible_leader_replicas,
            len(state.adding_replicas),
        )
        before = self.states.get(place_key)
        self.states[place_key] = after
        for node in set(after.replicas) - set(after.isr):
            self._is_outside(node, topic_id, index)
        place = self.place(topic_id, index)
        is_compared = any(c.key == key and c.mod_revision is not None for c in applied.compares)
        self._changes.changed(place, before, after, is_compared=is_compared or before is None)
        if before is None:
            return
        self.election_count += before.leader_epoch != after.leader_epoch
        self.isr_change_count += set(before.isr) != set(after.isr)
        for node in sorted(set(after.isr) - set(before.isr)):
            if before.leader_epoch == after.leader_epoch:
                self._joined(place, node, topic_id, index, after, applied)

    def _is_outside(self, node: int, topic_id: bytes, index: int) -> None:
        """A replica is not in the ISR (any more): of what it may have told there counts what is left."""
        key = (node, topic_id, index)
        if key in self._ends:
            self._ends[key] = self._ends[key]._replace(told_end_offset=self._ends[key].log_end_offset)
        for partition, seen in self._seen.items():
            if (seen.host.node_id, partition.topic_id, partition.index) == key and partition.is_offline:
                self._given_up.add(partition)

    def _joined(
        self, place: str, node: int, topic_id: bytes, index: int, after: State, applied: Applied
    ) -> None:
        key = keys.broker_key(node)
        is_current = any(c.key == key and c.create_revision for c in applied.compares)
        leader = self.cluster.by_node(after.leader) if after.leader >= 0 else None
        partition = None
        if leader is not None and leader.broker is not None:
            partition = leader.broker.partitions.by_id(topic_id, index)
        if (
            partition is None
            or partition.machine.leader_epoch != after.leader_epoch
            or not partition.is_leader
        ):
            return
        end = self._counted_end(node, partition) if self.is_kept(topic_id) else None
        needed = max(partition.high_watermark, partition.epoch_start_offset)
        self._changes.joined(place, node, end_offset=end, needed_offset=needed, is_current=is_current)

    # Now and then

    def _look(self, host: BrokerHost, partition: Partition) -> None:
        seen = self._seen.get(partition)
        if seen is None or partition.is_offline or host.process is None:
            return
        if host.process.is_frozen:
            if partition.is_leader:
                self._laggards.forget(seen.place)
            return
        self._check_reach(host, partition, seen)
        self._check_start(partition, seen)
        self._starts.seen(seen.place, seen.replica, partition.log.log_start_offset, partition.high_watermark)
        if partition.is_leader:
            self._look_for_laggards(host, partition, seen)

    def _check_reach(self, host: BrokerHost, partition: Partition, seen: _Seen) -> None:
        """D3: who is in sync has all that is committed, also between two moves of the high watermark."""
        self.report.check(
            "D3",
            partition.high_watermark <= partition.log.log_end_offset,
            f"{seen.place}: {seen.replica}'s high watermark {partition.high_watermark} is above its log's end",
        )
        stored = self.states.get((partition.topic_id, partition.index))
        if not partition.is_leader or stored is None or not self.is_kept(partition.topic_id):
            return
        if (stored.leader, stored.leader_epoch) != (host.node_id, partition.machine.leader_epoch):
            return
        for node in stored.isr:
            end = self._counted_end(node, partition)
            self.report.check(
                "D3",
                end is None or end >= partition.high_watermark,
                f"{seen.place}: {node} is in sync, and its log ends at {end}, below the high watermark {partition.high_watermark}",
            )

    def _look_for_laggards(self, host: BrokerHost, partition: Partition, seen: _Seen) -> None:
        stored = self.states.get((partition.topic_id, partition.index))
        front = host.front
        if (
            stored is None
            or front is None
            or stored.leader != host.node_id
            or front.there.is_cut
            or front.back.is_cut
            or front.watch_lag_s
            or not self.cluster.store.is_up
            or host.faults.slow_s
            or host.faults.error_chance
        ):
            self._laggards.forget(seen.place)
            return
        ends: dict[int, int] = {}
        for node in stored.isr:
            end = self._end(node, partition.topic_id, partition.index)
            if node != host.node_id and end is not None:
                ends[node] = end.log_end_offset
        leader = f"{seen.replica} in epoch {stored.leader_epoch}"
        self._laggards.looked(seen.place, leader, self.cluster.kernel.now, partition.log.log_end_offset, ends)


__all__ = ["Observer"]
