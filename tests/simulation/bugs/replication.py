"""Bugs in what leaders and followers do with each other."""

from typing import Any

from tests.simulation.bugs.planting import Bug, Patch

from penstock.broker.ack import PendingAcks
from penstock.broker.api import fetch
from penstock.broker.partition import Partition
from penstock.broker.partition_events import AdvanceHighWatermark
from penstock.broker.partition_machine import PartitionMachine, Role
from penstock.broker.partition_settings import NO_LEASE
from penstock.broker.replication import follower_fetch
from penstock.broker.replication.follower import FollowerLogs
from penstock.broker.replication.isr_changes import IsrChanges
from penstock.protocol.errors import ErrorCode
from penstock.storage.layout import OFFSET_MAX


def _truncating_settle(original: Any) -> Any:
    async def settle(self: Any, partition: Any, leader_epoch: int) -> None:
        async def job() -> None:
            self.require_followed(partition, leader_epoch)
            high_watermark = partition.high_watermark
            if partition.log.log_start_offset <= high_watermark < partition.log.log_end_offset:
                async with self._cutting(partition, high_watermark, OFFSET_MAX):
                    with partition.changing_log():
                        await self._run(partition.log.truncate_to, high_watermark)
                    self._was_cut(partition)

        await self._in_lane(partition, job)
        await original(self, partition, leader_epoch)

    return settle


def _blind_result(original: Any) -> Any:
    def result(self: Any, entry: Any, *args: Any, **more: Any) -> Any:
        class Blind:
            """The entry without the epoch of what was fetched last."""

            last_fetched_epoch = -1

            def __getattr__(self, name: str) -> Any:
                return getattr(entry, name)

        return original(self, Blind(), *args, **more)

    return result


def _anything_is_prefix(_: Any) -> Any:
    def is_prefix(entry: Any, partition: Any) -> bool:
        return True

    return is_prefix


def _count_replicas_always_enough(original: Any) -> Any:
    def count(self: Any) -> Any:
        actions = original(self)
        if self.role is Role.LEADER:
            self._may_commit = self.has_enough_replicas = True
        return actions

    return count


def _count_nobody(original: Any) -> Any:
    def count(self: Any) -> Any:
        actions = original(self)
        self._counted = ()
        return actions

    return count


def _init_without_lease(original: Any) -> Any:
    def init(self: Any, *args: Any, **more: Any) -> None:
        original(self, *args, **more)
        self._lease = NO_LEASE

    return init


def _join_by_high_watermark(_: Any) -> Any:
    def may_join(self: Any, follower: Any) -> bool:
        return bool(follower.may_join and follower.end_offset >= self.high_watermark)

    return may_join


def _asked_is_stored(_: Any) -> Any:
    return property(lambda self: self.isr if self.asked is None else self.asked.isr)


def _counts_what_is_appended(original: Any) -> Any:
    def counted(self: Any) -> int:
        return int(self._log_end_offset) if self.role is Role.FOLLOWER else int(original.fget(self))

    return property(counted)


def _no_count(_: Any) -> Any:
    async def count(self: Any, partition: Any) -> None:
        partition.syncs.start()

    return count


def _believe_everybody(_: Any) -> Any:
    def identify(broker: Any, request: Any, principal: str, listener: str) -> Any:
        if request.replica_id not in broker.image.brokers:
            return ErrorCode.BROKER_ID_NOT_REGISTERED
        return follower_fetch.Follower(request.replica_id, request.replica_epoch, True)

    return identify


def _without_joiners(original: Any) -> Any:
    def transaction(self: Any, batch: Any) -> Any:
        compares, puts = original(self, batch)
        wanted = len(batch) + 1
        return compares[:wanted], puts

    return transaction


def _all_may_be_sent(_: Any) -> Any:
    def sort_out(self: Any, batch: Any) -> Any:
        return list(batch)

    return sort_out


def _take_the_leaders_word(original: Any) -> Any:
    def advance(self: Any) -> Any:
        if self.role is Role.FOLLOWER and self.told_high_watermark > self.high_watermark:
            self.high_watermark = self.told_high_watermark
            return (AdvanceHighWatermark(self.high_watermark),)
        return original(self)

    return advance


def _keep_waiting(_: Any) -> Any:
    def fail_all(self: Any, code: ErrorCode) -> None:
        return

    return fail_all


BUGS = (
    Bug(
        "truncation to the high watermark",
        "KIP-101: whoever begins to follow cuts its log to its own high watermark, which lags behind the leader's",
        [Patch(FollowerLogs, "settle", _truncating_settle)],
        faults=("kill", "stop", "power cut of all"),
        seed=7,
        found_by=("D2",),
    ),
    Bug(
        "divergence not seen",
        "KIP-279, KIP-595: a leader does not compare the epoch of what its follower fetched last",
        [
            Patch(fetch.FetchJob, "_begin", _blind_result),
            Patch(follower_fetch, "_is_prefix", _anything_is_prefix),
        ],
        faults=("partition", "freeze", "kill"),
        seed=3,
        found_by=("D7",),
    ),
    Bug(
        "commits below min.insync.replicas",
        "KIP-966: the high watermark moves with whoever is left",
        [Patch(PartitionMachine, "_count_replicas", _count_replicas_always_enough)],
        faults=("kill", "freeze"),
        seed=1,
        found_by=("D3",),
    ),
    Bug(
        "early ack",
        "acks=all is given as soon as the leader has the records",
        [Patch(PartitionMachine, "_count_replicas", _count_nobody)],
        faults=("slow disk",),
        seed=1,
        found_by=("D3",),
    ),
    Bug(
        "no fencing",
        "a leader decides on although its lease may have ended",
        [Patch(Partition, "__init__", _init_without_lease)],
        faults=("store cut off", "partition"),
        seed=1,
        found_by=("M2",),
    ),
    Bug(
        "joins by high watermark alone",
        "a follower is taken into the ISR before it has what its leader had when its epoch began",
        [Patch(PartitionMachine, "_may_join", _join_by_high_watermark)],
        faults=("kill", "stop", "partition"),
        seed=1,
        found_by=("D5",),
    ),
    Bug(
        "shrink counts at once",
        "a leader stops to wait for a replica before its removal from the ISR is stored",
        [Patch(PartitionMachine, "maximal_isr", _asked_is_stored)],
        faults=("freeze", "store cut off"),
        seed=2,
        found_by=("D3",),
    ),
    Bug(
        "followers count what is appended",
        "write.caching=false, and yet a follower asks for the next offset before its sync",
        [
            Patch(PartitionMachine, "counted_end_offset", _counts_what_is_appended),
            Patch(FollowerLogs, "_count", _no_count),
        ],
        faults=("slow disk",),
        seed=1,
        found_by=("D3",),
    ),
    Bug(
        "stale incarnation joins",
        "KIP-903: a fetch of an earlier start of a broker is believed, and the joiner's registration is not compared",
        [
            Patch(follower_fetch, "identify", _believe_everybody),
            Patch(IsrChanges, "_transaction", _without_joiners),
            Patch(IsrChanges, "_sort_out", _all_may_be_sent),
        ],
        faults=("kill",),
        seed=1,
        found_by=("D5",),
    ),
    Bug(
        "high watermark as told",
        "a follower takes its leader's high watermark though its own log is not there yet",
        [Patch(PartitionMachine, "_advance", _take_the_leaders_word)],
        faults=("slow disk", "kill"),
        seed=1,
        found_by=("D3",),
    ),
    Bug(
        "acks outlive leadership",
        "a deposed leader acks what it appended when its high watermark, now told by the successor, comes there",
        [Patch(PendingAcks, "fail_all", _keep_waiting)],
        faults=("partition",),
        seed=16,
        found_by=("D1",),
    ),
)
