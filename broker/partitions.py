"""All partitions whose log is on this broker.

Owns which logs are open. Learns leadership only from the cluster image, that is, from watching the metadata store: `apply` takes
each change in order. Knows no requests.

A directory without a topic in the store is never deleted on that ground (the store may be the one that was lost): it is renamed to
`*-stray` and named in the log. A topic's deletion renames its directories first, so that a new topic of that name starts empty.

A replica that the store gives to other brokers is removed like one of a deleted topic. A damaged one is served no more; once the cluster counts it
no more it is renamed to `*-damaged`, kept, and fetched anew. A log that begins anew within one start of the broker is in no ISR and leads nobody
by what the one before it had, of which fetches on their way may still tell, and leaders may know (PROPERTIES D5). What goes wrong with one partition's files takes that partition out of service and no
other. Checkpoints: `checkpointed_partitions`.
"""

import logging
import math
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar, TypeVarTuple

import trio

from penstock.broker.broker_config import BrokerConfig
from penstock.broker.checkpointed_partitions import CheckpointedPartitions
from penstock.broker.damage import repair_advice
from penstock.broker.deleted_files import DeletedFiles
from penstock.broker.image import ClusterImage, ImageDelta, PartitionImage, TopicImage
from penstock.broker.keys import NO_LEADER
from penstock.broker.partition import Partition
from penstock.broker.partition_machine import PartitionMachine, StateLearned, TimePassed
from penstock.broker.partition_settings import PartitionServices, PartitionSettings
from penstock.broker.rejoining import without
from penstock.broker.settings import settings_for
from penstock.errors import PenstockError
from penstock.protocol.errors import ErrorCode
from penstock.runtime.files import DiskFull, TooManyOpenFiles
from penstock.storage.data_directory import DataDirectory
from penstock.storage.errors import CorruptBatch, CorruptFile
from penstock.storage.layout import DAMAGED_DIRECTORY_SUFFIX
from penstock.storage.log import Log
from penstock.storage.retention import CautiousClock

log = logging.getLogger(__name__)
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

PRODUCER_CHECK_S = 600.0
OPEN_AGAIN_S = 5.0
OPENERS_MAX = 4
"""Workers that open logs at once."""
FETCHED_ANEW_MAX = 3
"""How often a damaged replica is put aside between two starts."""
CLOSERS_MAX = 8
"""Workers that close logs at once: most of it is waiting for the disk, which makes several syncs into one."""


@dataclass(frozen=True, slots=True)
class _Opening:
    """One log to open or create."""

    topic: TopicImage
    state: PartitionImage
    settings: PartitionSettings


class PartitionManager(CheckpointedPartitions):
    """The partitions of one broker, by name and by topic id."""

    def __init__(
        self,
        config: BrokerConfig,
        image: ClusterImage,
        directory: DataDirectory,
        services: PartitionServices,
        deleted: DeletedFiles,
    ) -> None:
        super().__init__(config, directory, replace(services, note_damage=self._note_damage))
        self._deleted = deleted
        self._image = image
        self._unusable: dict[tuple[bytes, int], Exception] = {}
        self._damaged: set[tuple[bytes, int]] = set()
        """Replicas that are to be put aside once they are in no ISR."""
        self._begins_anew: set[tuple[bytes, int]] = set()
        """Replicas whose log goes, or has gone, and no other is open yet: leaders may still know how far it was."""
        self._damage_counts: Counter[tuple[bytes, int]] = Counter()
        self._absence_refused_at = -math.inf
        """When a batch was refused last for want of its partition (monotonic seconds)."""
        self._next_producer_check = 0.0
        self._cautious = CautiousClock()
        self._next_opening = 0.0
        self._next_look_around = 0.0
        self._changed = trio.Event()
        self._is_applying = False
        self._deltas: deque[ImageDelta] = deque()
        self._noted = trio.Event()
        self._listeners: list[Callable[[ImageDelta], None]] = []
        self._leavers: list[Callable[[Partition], Awaitable[None]]] = []

    # Looking up

    def why_absent(self, topic: str, topic_id: bytes | None, index: int) -> ErrorCode:
        """The code for a partition that `by_name` or `by_id` did not find."""
        known = self._image.topic(topic) if topic_id is None else self._image.topic_by_id(topic_id)
        if known is None:
            return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION if topic_id is None else ErrorCode.UNKNOWN_TOPIC_ID
        if not 0 <= index < known.partition_count:
            return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        if (known.topic_id, index) in self._unusable:
            return ErrorCode.KAFKA_STORAGE_ERROR
        return ErrorCode.NOT_LEADER_OR_FOLLOWER

    def refuse_absent(self, topic: str, topic_id: bytes | None, index: int) -> ErrorCode:
        """As `why_absent`, for a batch: if the partition is opened now, what is on its way behind the batch must not come before it."""
        self._absence_refused_at = self._services.clock.monotonic()
        return self.why_absent(topic, topic_id, index)

    def is_offline(self, topic_id: bytes, index: int) -> bool:
        """Whether a partition that should be here is not served: its log can't be opened, or has failed since."""
        partition = self._by_id.get((topic_id, index))
        if partition is not None:
            return partition.is_offline
        return (topic_id, index) in self._unusable

    async def wait_ready(self, topic_id: bytes) -> None:
        """Return when every partition of the topic that is to be here is open, or is known to be unusable, or the topic is gone."""
        while not self._is_ready(topic_id):
            await self._changed.wait()

    def _is_ready(self, topic_id: bytes) -> bool:
        mine = (state for state in self._image.partitions(topic_id) if self._config.node_id in state.replicas)
        return all(
            (topic_id, state.index) in self._by_id or (topic_id, state.index) in self._unusable
            for state in mine
        )

    # Following the image

    def listen(self, listener: Callable[[ImageDelta], None]) -> None:
        """Have `listener` called with every change after it was acted on: logs are open and know who leads."""
        self._listeners.append(listener)

    def before_deletion(self, leave: Callable[[Partition], Awaitable[None]]) -> None:
        """Have `leave` awaited before a partition's directory is taken away: who works in it is to be out of it then."""
        self._leavers.append(leave)

    def note(self, delta: ImageDelta) -> None:
        """Take a change of the image; `run` acts on one after the other.

        Partitions that are open learn at once who leads, also those that are to be removed: behind a thousand logs that are being opened that
        would be late.
        """
        self._deltas.append(delta)
        self._noted.set()
        for state in delta.partitions_changed:
            key = (state.topic_id, state.index)
            partition = self._by_id.get(key)
            if partition is not None:
                self._teach(partition, state)
            elif key in self._begins_anew:
                self._leaves(state)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Act on the image's changes for ever; started once those noted so far are done, and strays are put aside."""
        first = True
        try:
            while True:
                while self._deltas:
                    self._is_applying = True
                    await self._apply(self._deltas.popleft())
                    self._is_applying = False
                if first:
                    first = False
                    await self._set_strays_aside()
                    task_status.started()
                self._noted = trio.Event()
                if not self._deltas:
                    await self._noted.wait()
        finally:
            self._deltas.clear()
            self._is_applying = False
            self._changed.set()

    async def _apply(self, delta: ImageDelta) -> None:
        for topic in delta.topics_removed:
            await self._delete(topic)
        openings: list[_Opening] = []
        settings: dict[str, PartitionSettings] = {}
        await self._leave_behind(delta)
        for state in delta.partitions_changed:
            partition = self._by_id.get((state.topic_id, state.index))
            if partition is not None:
                self._teach(partition, self._newest(state))
            elif (
                self._config.node_id in state.replicas and (state.topic_id, state.index) not in self._damaged
            ):
                known = self._image.topic_by_id(state.topic_id)
                if known is not None:  # else it was deleted meanwhile: the image is ahead of this delta
                    if known.name not in settings:
                        settings[known.name] = self._settings(known.name)
                    openings.append(_Opening(known, state, settings[known.name]))
        if openings:
            await self._open_all(openings)
        self._change_settings(delta)
        for listener in self._listeners:
            listener(delta)
        self._changed.set()
        self._changed = trio.Event()

    def _settings(self, topic: str) -> PartitionSettings:
        return settings_for(self._config, self._image, topic)

    def _change_settings(self, delta: ImageDelta) -> None:
        if delta.broker_configs_changed & {None, self._config.node_id}:
            changed: Iterable[Partition] = self
        elif delta.topic_configs_changed:
            changed = [partition for partition in self if partition.topic in delta.topic_configs_changed]
        else:
            return
        settings: dict[str, PartitionSettings] = {}
        for partition in changed:
            if partition.topic not in settings:
                settings[partition.topic] = self._settings(partition.topic)
            partition.change_settings(settings[partition.topic])

    async def _open_all(self, openings: list[_Opening]) -> None:
        """Open logs on a few workers, many to each: a hop to a thread costs more than a clean open."""
        share = -(-len(openings) // OPENERS_MAX)
        now_ms = self._services.clock.wall_ms()
        async with trio.open_nursery() as nursery:
            for start in range(0, len(openings), share):
                nursery.start_soon(self._open_some, openings[start : start + share], now_ms)

    async def _open_some(self, openings: list[_Opening], now_ms: int) -> None:
        def open_each() -> list[Log | Exception]:
            opened: list[Log | Exception] = []
            for opening in openings:
                try:
                    opened.append(self._open_log(opening, now_ms))
                except PenstockError as error:
                    opened.append(error)
                except Exception as error:  # damage that nobody thought of is no reason to serve nothing
                    log.exception("%s-%d: opening ended by a bug", opening.topic.name, opening.state.index)
                    opened.append(error)
            return opened

        for opening, result in zip(openings, await self._services.threads.run(open_each), strict=True):
            if isinstance(result, Log):
                self._add(opening, result)
            else:
                name, index = opening.topic.name, opening.state.index
                before = self._unusable.get((opening.state.topic_id, index))
                self._unusable[opening.state.topic_id, index] = result
                if str(before) == str(result):
                    continue  # tried again, and told already
                if isinstance(result, CorruptBatch | CorruptFile):
                    self.quarantine(opening.state.topic_id, index, str(result))
                elif self._services.isr_changes is not None:  # others are to lead until it can be opened
                    self._services.isr_changes.leave(opening.state.topic_id, index)
                path = self._directory.partition_path(name, index)
                log.error("%s-%d is offline: %s%s", name, index, result, repair_advice(result, path))

    async def _set_strays_aside(self) -> None:
        """Rename the directories of partitions that the image does not have here: those that were moved away to be removed, all others to be kept."""
        known = {
            (topic.name, state.index)
            for topic in self._image.topics.values()
            for state in self._mine(topic.topic_id)
        }
        moved = {
            (topic.name, state.index): topic.topic_id
            for topic in self._image.topics.values()
            for state in self._image.partitions(topic.topic_id)
            if self._config.node_id not in state.replicas
        }
        try:
            for path in await self._run(self._directory.set_moved_aside, moved):
                log.info("%s: moved to other brokers while this one was away", path)
                self._deleted.add(path, partial(self._directory.remove, path), 0)
            paths = await self._run(self._directory.set_strays_aside, known)
        except PenstockError as error:
            log.error("a directory without a topic in the metadata store can't be put aside: %s", error)
            return
        for path in paths:
            log.warning("%s: no such topic in the metadata store; kept under this name", path)

    def _mine(self, topic_id: bytes) -> list[PartitionImage]:
        return [s for s in self._image.partitions(topic_id) if self._config.node_id in s.replicas]

    def _open_log(self, opening: _Opening, now_ms: int) -> Log:
        """On a worker: open the log that is there, or make a new one."""
        return self._directory.open_log(
            opening.topic.name,
            opening.state.index,
            opening.topic.topic_id,
            opening.settings.log_config,
            now_ms,
        )

    def _add(self, opening: _Opening, opened: Log) -> None:
        topic, state = opening.topic, opening.state
        if opened.report:
            level = logging.INFO if opened.report.is_harmless else logging.WARNING
            log.log(level, "%s-%d: recovered: %s", topic.name, state.index, opened.report)
        known = self._directory.high_watermarks.get((topic.name, state.index), 0)
        machine = PartitionMachine(
            self._config.node_id,
            write_caching=opening.settings.write_caching,
            min_insync_replicas=opening.settings.min_insync_replicas,
            high_watermark=max(opened.log_start_offset, min(known, opened.log_end_offset)),
            replica_lag_time_max_ms=self._config.replica_lag_time_max_ms,
        )
        if self._unusable.pop((topic.topic_id, state.index), None) is not None:
            log.info("%s-%d is no longer offline", topic.name, state.index)
        partition = Partition(
            topic.name, topic.topic_id, state.index, opened, opening.settings, machine, self._services
        )
        if self._absence_refused_at > -math.inf:
            partition.gaps.refuse(ErrorCode.NOT_LEADER_OR_FOLLOWER, self._absence_refused_at)
        partition.begins_anew = (topic.topic_id, state.index) in self._begins_anew
        self._begins_anew.discard((topic.topic_id, state.index))
        self._by_name[topic.name, state.index] = partition
        self._by_id[topic.topic_id, state.index] = partition
        self._teach(partition, self._newest(state))

    def _newest(self, state: PartitionImage) -> PartitionImage:
        """The state by the image, which may be ahead of the delta that is being acted on."""
        return self._image.partition(state.topic_id, state.index) or state

    def _teach(self, partition: Partition, state: PartitionImage) -> None:
        if partition.begins_anew and partition.machine.has_caught_up:
            partition.begins_anew = False
        goes = (state.topic_id, state.index) in self._begins_anew
        # it may have been taken in by a fetch that was sent before the log failed, or went
        leaves = (partition.is_lost or partition.begins_anew or goes) and self._leaves(state)
        partition.learn(
            StateLearned(
                NO_LEADER if leaves and state.leader == self._config.node_id else state.leader,
                state.leader_epoch,
                state.isr,
                state.replicas,
                state.partition_epoch,
                partition.log.log_end_offset,
                partition.log.durable_end_offset,
                self._services.clock.monotonic() * 1000,
                state.adding_replicas,
                state.eligible_leader_replicas,
            )
        )

    async def _delete(self, topic: TopicImage) -> None:
        """Take a removed topic's partitions out of service and rename their directories; the files go `file.delete.delay.ms` later."""
        gone = [partition for partition in self if partition.topic_id == topic.topic_id]
        await self._remove(gone, f"the deleted topic {topic.name}")
        for key in [key for key in self._unusable if key[0] == topic.topic_id]:
            del self._unusable[key]
        self._begins_anew = {key for key in self._begins_anew if key[0] != topic.topic_id}

    async def _leave_behind(self, delta: ImageDelta) -> None:
        """Remove the replicas that other brokers hold now, and put aside those that are damaged, once they count no more.

        Not what counts again, or has come back, by the image, which may be ahead.
        """
        node_id = self._config.node_id
        moved: list[Partition] = []
        for state in delta.partitions_changed:
            key = (state.topic_id, state.index)
            now = self._newest(state)
            if node_id not in state.replicas and node_id not in now.replicas:
                if key in self._by_id:
                    moved.append(self._by_id[key])
                    self._begins_anew.add(key)
                self._unusable.pop(key, None)
                self._damaged.discard(key)
            elif key in self._damaged and not self._counts_here(state) and not self._counts_here(now):
                await self._put_damaged_aside(key)
        if moved:
            for partition in moved:
                log.info("%s-%d: not a replica any more", partition.topic, partition.index)
            await self._remove(moved, f"{len(moved)} replicas that were moved away")

    async def _remove(self, gone: Sequence[Partition], what: str) -> None:
        await self._take_out_of_service(gone)
        for partition, remove in await self._run(self._put_aside, what, gone):
            self._deleted.add(what, remove, partition.log.config.file_delete_delay_ms)

    async def _take_out_of_service(self, gone: Sequence[Partition]) -> None:
        """Return when nobody is at work on them, or will be."""
        for partition in gone:
            del self._by_name[partition.topic, partition.index]
            del self._by_id[partition.topic_id, partition.index]
            await partition.quiesce()
            for leave in self._leavers:
                await leave(partition)
            self._services.active_files.forget(partition)
        await self._checkpoint_ended()

    def _put_aside(self, what: str, gone: Sequence[Partition]) -> list[tuple[Partition, Callable[[], None]]]:
        """On a worker: rename the directories, with one sync for all; returns what removes them."""
        removals: list[tuple[Partition, Callable[[], None]]] = []
        try:
            for partition in gone:
                try:
                    removals.append((partition, partition.log.delete(is_durable=False)))
                except PenstockError as error:
                    log.error("not all files of %s are removed: %s", what, error)
            self._directory.sync_names()
        except (PenstockError, FileNotFoundError) as error:
            log.error("a power cut may bring directories of %s back: %s", what, error)
        return removals

    # Damage

    def quarantine(self, topic_id: bytes, index: int, reason: str) -> None:
        """A replica is damaged: serve it no more, and fetch it anew from another broker as soon as the cluster does not count it any more.

        The last member of an ISR stays as it is, unless there are eligible leader replicas to take its place: nobody else has all that is committed.
        One that is damaged again and again stays out of service until the next start: the disk must not fill up with what is kept.
        """
        state = self._image.partition(topic_id, index)
        topic = self._image.topic_by_id(topic_id)
        if self._services.isr_changes is None or state is None or topic is None:
            return
        if (topic_id, index) in self._damaged or self._is_last(state):
            return
        self._damage_counts[topic_id, index] += 1
        if self._damage_counts[topic_id, index] <= FETCHED_ANEW_MAX:
            self._damaged.add((topic_id, index))
            log.error("%s-%d is damaged and will be fetched anew: %s", topic.name, index, reason)
        else:
            log.error(
                "%s-%d is damaged once more, and is not served until the next start: %s",
                topic.name,
                index,
                reason,
            )
        partition = self._by_id.get((topic_id, index))
        if partition is not None:
            partition.fail()
        else:
            self._services.isr_changes.leave(topic_id, index)
        if (topic_id, index) in self._damaged and not self._counts_here(state):
            self.note(ImageDelta(self._image.revision, partitions_changed=(state,)))

    def _note_damage(self, partition: Partition, reason: str) -> None:
        self.quarantine(partition.topic_id, partition.index, reason)

    def _counts_here(self, state: PartitionImage) -> bool:
        """Whether this replica may be made leader, or holds up the high watermark."""
        return self._config.node_id in (*state.isr, *state.eligible_leader_replicas)

    def _is_last(self, state: PartitionImage) -> bool:
        """Whether nobody else is known to have all that is committed."""
        left = without(state.state, self._config.node_id)
        return not left.isr or self._config.node_id in left.isr

    def _leaves(self, state: PartitionImage) -> bool:
        """Take this replica, whose log is not what it was, out of what it counts in; False if it counts nowhere, or is the last."""
        changes = self._services.isr_changes
        if changes is None or not self._counts_here(state) or self._is_last(state):
            return False
        changes.leave(state.topic_id, state.index)
        return True

    async def _put_damaged_aside(self, key: tuple[bytes, int]) -> None:
        """Keep a damaged replica's directory under another name; the next to open that partition begins with an empty log."""
        self._damaged.discard(key)
        partition, topic = self._by_id.get(key), self._image.topic_by_id(key[0])
        if topic is None:
            return
        self._begins_anew.add(key)
        try:
            if partition is not None:
                await self._take_out_of_service([partition])
                path = await self._run(partition.log.put_aside, DAMAGED_DIRECTORY_SUFFIX)
            else:
                path = await self._run(self._directory.put_damaged_aside, topic.name, key[1])
        except PenstockError as error:
            self._unusable[key] = error
            self._damaged.add(key)  # and so it stays until the next start: nothing is opened in its place
            log.error("%s-%d: what is damaged can't be put aside: %s", topic.name, key[1], error)
        else:
            self._unusable.pop(key, None)
            log.warning("%s-%d: what was damaged is kept as %s", topic.name, key[1], path)

    # Checkpoints, and the end

    def forget_idle_producers(self, now: float) -> None:
        """Every ten minutes, drop idempotent producers that have been idle for `producer.id.expiration.ms`. `now` is monotonic.

        Not at the start: a wall clock that is wrong then may be put right (PROPERTIES D14), and who is forgotten may repeat itself (T1).
        """
        if now < self._next_producer_check:
            return
        is_first = not self._next_producer_check
        self._next_producer_check = now + PRODUCER_CHECK_S
        now_ms = self._cautious.now_ms(now, self._services.clock.wall_ms())
        for partition in self._by_name.values() if not is_first else ():
            partition.expire_producers(now_ms)

    def open_again(self, now: float) -> None:
        """Every five seconds, have opened what could not be for want of room or descriptors: they come back. `now` is monotonic."""
        if now < self._next_opening:
            return
        self._next_opening = now + OPEN_AGAIN_S
        missing = [
            key for key, error in self._unusable.items() if isinstance(error, DiskFull | TooManyOpenFiles)
        ]
        states = [state for key in missing if (state := self._image.partition(*key)) is not None]
        if states:
            self.note(ImageDelta(self._image.revision, partitions_changed=tuple(states)))

    def look_around(self, now: float) -> None:
        """In a cluster: every half of `replica.lag.time.max.ms`, have leaders look who lags; at once where a fence was lifted. `now` is monotonic."""
        if self._services.isr_changes is None:
            return
        is_due = now >= self._next_look_around
        if is_due:
            self._next_look_around = now + self._config.replica_lag_time_max_ms / 2000
        for partition in self:
            if is_due or (partition.machine.is_fenced and not partition.is_fenced):
                partition.step(TimePassed(now * 1000))

    def flush_due(self, now: float) -> None:
        """Begin the syncs that `flush.ms` asks for; called every second or so."""
        for partition in self._by_name.values():
            partition.flush_if_due(now)

    def close_retired(self) -> None:
        """Have a worker close the files that readers were the last to hold; called every second or so."""
        pool = self._directory.pool

        async def close() -> None:
            try:
                await self._run(pool.close_retired)
            except PenstockError as error:
                log.error("a file that is read no more can't be closed: %s", error)

        if pool.has_leftovers:
            self._services.spawn(close)

    async def close(self) -> None:
        """Sync and close every log, write the checkpoints, and mark the folder as cleanly closed if all went well."""
        while self._deltas or self._is_applying:  # a deletion that ends half-way would leave strays
            await self._changed.wait()
        partitions = tuple(self)
        for partition in partitions:
            await partition.quiesce()

        outcomes: list[bool] = []

        async def close_some(share: Sequence[Partition]) -> None:
            outcomes.append(await self._services.threads.run(_close_each, share))

        async with trio.open_nursery() as nursery:
            for number in range(CLOSERS_MAX):
                nursery.start_soon(close_some, partitions[number::CLOSERS_MAX])
        self.close_retired()
        await self.write_checkpoints()
        if all(outcomes) and not self._unusable:
            try:
                await self._run(self._directory.mark_clean)
            except PenstockError as error:
                log.error("the next start will verify all logs: %s", error)


def _close_each(partitions: Sequence[Partition]) -> bool:
    """On a worker: close logs one after the other; whether all went well."""
    clean = True
    for partition in partitions:
        try:
            partition.log.close()
        except (PenstockError, FileNotFoundError) as error:
            clean = False
            log.error("%s-%d: not closed cleanly: %s", partition.topic, partition.index, error)
    return clean
