"""From a partition's log to the groups of its shard.

Owns the replay: in the order of the log the last record of each key wins, tombstones delete. Memory is bounded by the read buffer and the
groups themselves. What a newer broker wrote (unknown kinds of keys) is skipped, and so is a damaged record, with a line in the log; a log that
can't be read at all leaves the shard failed, not half loaded.

The log may hold records of both kinds of one group: those of the kind before are deleted with the first store of the next, and that may have
landed in part. Then the group is of the kind that wrote last (tombstones do not count), and the rest is its `leftovers`.

What is read goes up to where the leader's epoch begins: appends of an epoch before that are still under way are waited for. Nothing is visible
before the high watermark has reached that end: records above it are not committed yet, and a later leader may not have them.
Source: Kafka's `CoordinatorLoaderImpl`.
"""

import logging
from collections import Counter
from contextlib import AbstractAsyncContextManager, nullcontext

import trio

from penstock.broker.groups.group import Group
from penstock.broker.groups.membership_driver import MembershipDriver
from penstock.broker.groups.offset_table import CommittedOffset
from penstock.broker.groups.shard import GroupShard
from penstock.broker.partition import Partition
from penstock.protocol.errors import DecodeError
from penstock.protocol.group_records import RecordKind, decode_group_key, decode_offset_key
from penstock.protocol.record_batch import iterate_batches
from penstock.protocol.record_format import version_of
from penstock.protocol.records import iterate_records
from penstock.runtime.threads import Threads

log = logging.getLogger(__name__)

DECOMPRESSED_MAX_BYTES = 100 * 1024 * 1024
RECORDS_PER_TURN = 200
"""Records that are replayed before others get their turn: about two milliseconds."""
GROUPS_PER_TURN = 20
"""Groups whose members are brought to life before others get their turn: one may have a thousand."""
DAMAGED_LINES_MAX = 10


class Replay:
    """Puts records into a shard's groups."""

    def __init__(
        self, shard: GroupShard, classic: MembershipDriver, consumer: MembershipDriver | None
    ) -> None:
        self._shard = shard
        self._classic = classic
        self._consumer = consumer
        self.unknown: Counter[int] = Counter()
        self.damaged = 0
        self.count = 0
        self._made: list[Group] = []
        self._last_writers: dict[Group, MembershipDriver] = {}

    def apply(self, offset: int, key: bytes | None, value: bytes | None) -> None:
        """Take one record."""
        self.count += 1
        try:
            self._apply(key, value)
        except DecodeError as error:
            self.damaged += 1
            if self.damaged <= DAMAGED_LINES_MAX:
                log.error(
                    "%s: the record at offset %d is damaged and left out: %s",
                    _name(self._shard),
                    offset,
                    error,
                )

    def _apply(self, key: bytes | None, value: bytes | None) -> None:
        kind = version_of(key or b"")
        assert key is not None
        if kind in (RecordKind.OFFSET_COMMIT, RecordKind.OFFSET_COMMIT_OLD):
            group_id, topic, partition = decode_offset_key(key)
            committed = None if value is None else CommittedOffset.decode(value)
            group = self._group(group_id, value)
            if group is not None:
                group.offsets.put(topic, partition, committed)
        elif kind == RecordKind.GROUP_METADATA:
            self._apply_membership(self._classic, decode_group_key(key), key, value)
        elif (self._consumer is not None and 3 <= kind <= 8) or kind == 16:
            assert self._consumer is not None
            self._apply_membership(self._consumer, _group_id(key), key, value)
        else:
            self.unknown[kind] += 1

    def _apply_membership(
        self, driver: MembershipDriver, group_id: str, key: bytes, value: bytes | None
    ) -> None:
        group = self._group(group_id, value)
        if group is not None:
            driver.apply(group, key, value)
            if value is not None:
                self._last_writers[group] = driver

    def _group(self, group_id: str, value: bytes | None) -> Group | None:
        """The group that a record is of; a tombstone makes none."""
        group = self._shard.groups.get(group_id)
        if group is None and value is not None:
            group = self._shard.groups[group_id] = Group(group_id, self._shard)
            self._shard.services.group_count += 1
            self._made.append(group)
        return group

    def give_up(self) -> None:
        """Leadership is gone, or the log can't be read: nothing is left behind, and another replay can begin."""
        for group in self._made:
            self._shard.drop(group)
            for driver in self._shard.services.drivers:
                driver.forget(group)

    async def finish(self) -> None:
        """All was read. Others get their turn in between; leadership may go meanwhile."""
        shard = self._shard
        for count, group in enumerate(self._made, start=1):
            last_writer = self._last_writers.pop(group, None)
            for driver in sorted(shard.services.drivers, key=lambda each: each is last_writer):
                driver.loaded(group, shard.services.now_ms())
            if group.membership is None and not group.offsets and not group.has_records:
                shard.drop(group)
            if count % GROUPS_PER_TURN == 0:
                await trio.lowlevel.checkpoint()
                if not shard.is_current:
                    return
        for group in shard.groups.values():
            shard.services.deadlines.note(group)
        for kind, count in sorted(self.unknown.items()):
            log.warning("%s: %d records of unknown kind %d were left out", _name(shard), count, kind)
        if self.damaged > DAMAGED_LINES_MAX:
            log.error("%s: %d damaged records in all were left out", _name(shard), self.damaged)


async def load(
    shard: GroupShard,
    replay: Replay,
    threads: Threads,
    buffer_bytes: int,
    limiter: AbstractAsyncContextManager[object] | None = None,
) -> None:
    """Replay the log into the shard; it is loaded then. Raises PenstockError where the log can't be read.

    `limiter` is held while the log is read, and not while the end of it is waited for: followers may take long, and other shards can be read
    meanwhile. Returns early, with the shard closed, when leadership goes meanwhile.
    """
    try:
        async with limiter or nullcontext():
            end = await _read_all(shard, replay, threads, buffer_bytes)
        if not await shard.wait_committed(end):
            return
        await replay.finish()
        if not shard.is_current:
            return
        shard.is_loaded = True
    finally:
        if not shard.is_loaded:
            replay.give_up()
    if replay.count:
        log.debug("%s: %d groups from %d records", _name(shard), len(shard.groups), replay.count)


async def _read_all(shard: GroupShard, replay: Replay, threads: Threads, buffer_bytes: int) -> int:
    """Replay everything up to the start of the leader's epoch; returns that offset (exclusive)."""
    partition = shard.partition
    if partition.has_queued_appends:
        await partition.run_in_lane(_do_nothing)
    position, end = partition.log.log_start_offset, partition.log.log_end_offset
    while position < end and shard.is_current:
        data = await threads.run(_read, partition, position, end, buffer_bytes)
        start = position
        position = await _replay_chunk(replay, data, position, shard)
        if position == start and shard.is_current:
            raise DecodeError(f"{_name(shard)}: no whole record batch at offset {position}")
    return end


def _do_nothing() -> None:
    """For its turn in a lane."""


def _read(partition: Partition, position: int, end: int, buffer_bytes: int) -> bytes:
    """On a worker: the bytes of some whole batches, at least one."""
    with partition.log.read(position, buffer_bytes, end, resident_only=False) as found:
        return found.read()


async def _replay_chunk(replay: Replay, data: bytes, position: int, shard: GroupShard) -> int:
    """Apply what is in `data` from `position` on; returns the offset behind it."""
    if not shard.is_current:
        return position
    turn = 0
    for header, batch in iterate_batches(data):
        if not header.is_control and header.next_offset > position:
            for record in iterate_records(batch, output_max_bytes=DECOMPRESSED_MAX_BYTES):
                if record.offset >= position:
                    replay.apply(record.offset, record.key, record.value)
                    turn += 1
                    if turn % RECORDS_PER_TURN == 0:
                        await trio.lowlevel.checkpoint()
                        if not shard.is_current:
                            return position
        position = max(position, header.next_offset)
    return position


def _group_id(key: bytes) -> str:
    """The group of any record of KIP-848: its key begins with it."""
    size = int.from_bytes(key[2:4], "big", signed=True)
    if not 0 <= size <= len(key) - 4:
        raise DecodeError(f"a group id of {size} bytes in a key of {len(key)}")
    try:
        return key[4 : 4 + size].decode()
    except UnicodeDecodeError:
        raise DecodeError("a group id that is not UTF-8") from None


def _name(shard: GroupShard) -> str:
    return f"{shard.partition.topic}-{shard.partition.index}"


__all__ = ["Replay", "load"]
