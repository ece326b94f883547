"""Where the partitions of topics stand, and how far a group is behind: one look at a cluster.

Owns what is asked, in which order, and how the figures follow from each other. Knows nothing of tables. Of bounded backlogs `topic_backlog` asks.

Invariant: committed offsets are read before the ends of the logs, so that a group which keeps up never shows a negative lag.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from penstock.cli import topic_backlog
from penstock.cli.topic_backlog import Backlogs
from penstock.client.admin import Admin
from penstock.client.admin_values import EARLIEST, LATEST, FoundOffset
from penstock.client.errors import BrokerError, UnknownGroup, UnknownTopic, UnsupportedByBroker
from penstock.client.group_values import (
    GroupDescription,
    GroupListing,
    GroupMember,
    GroupState,
    OffsetAndMetadata,
)
from penstock.client.metadata import TopicMetadata, TopicPartition
from penstock.client.placement_values import PartitionBacklog
from penstock.runtime.clock import Clock

_REMEMBERED_TIMES_MAX = 10_000


@dataclass(frozen=True, slots=True)
class PartitionStanding:
    """One partition, as far as its leader told. Offsets are those of the next record; `committed` is a group's."""

    partition: TopicPartition
    log_start: int | None = None
    high_watermark: int | None = None
    last_stable: int | None = None
    committed: int | None = None
    lag_ms: int | None = None
    """How long the first record that is not consumed has been there; 0 when there is none, None where its time is not known."""
    owner: GroupMember | None = None

    @property
    def lag(self) -> int | None:
        """Records between the committed offset and the high watermark."""
        if self.committed is None or self.high_watermark is None:
            return None
        return max(self.high_watermark - self.committed, 0)

    @property
    def lag_at_most(self) -> int | None:
        """The lag, and without a committed offset all that is in the log: what a monitor must not overlook."""
        if self.committed is not None or self.high_watermark is None:
            return self.lag
        return self.high_watermark - (self.log_start or 0)


@dataclass(frozen=True, slots=True)
class GroupStanding:
    """A group that has committed offsets for a topic, in sum."""

    listing: GroupListing
    committed_count: int
    """Partitions that it has committed an offset for."""
    lag: int
    lag_ms: int | None


@dataclass(frozen=True, slots=True)
class Standing:
    """What one look found, and when by both clocks."""

    taken_at_ms: int
    taken_at_s: float
    group: GroupDescription | None
    partitions: Sequence[PartitionStanding]
    groups: Sequence[GroupStanding] = ()
    backlogs: Backlogs = field(default_factory=dict[TopicPartition, PartitionBacklog])
    """Of those partitions whose backlog is bounded."""
    errors: Sequence[BrokerError] = field(default=())

    @property
    def lag(self) -> int:
        """Of all partitions whose lag is known."""
        return sum(partition.lag or 0 for partition in self.partitions)

    @property
    def lag_ms(self) -> int | None:
        """The longest of them; None where none is known."""
        return max((each.lag_ms for each in self.partitions if each.lag_ms is not None), default=None)


@dataclass(slots=True)
class Looker:
    """Looks again and again. Remembers the times of records that it has read once: they don't change."""

    admin: Admin
    clock: Clock
    topics: Sequence[str]
    group_id: str | None = None
    _times: dict[tuple[TopicPartition, int], int] = field(
        default_factory=dict[tuple[TopicPartition, int], int], init=False
    )

    async def look(self) -> Standing:
        """Ask for everything once.

        Raises:
            BrokerError: the group is not there (UnknownGroup), or nothing can be told of it.
        """
        if self.group_id is None:
            return await self._look_at_topics()
        return await self._look_at_group(self.group_id)

    async def _look_at_group(self, group_id: str) -> Standing:
        described = (await self.admin.describe_groups([group_id]))[group_id]
        committed, errors = _settled(await self.admin.list_group_offsets(group_id))
        if isinstance(described, BrokerError) and not (isinstance(described, UnknownGroup) and committed):
            raise described
        group = None if isinstance(described, BrokerError) else described
        owners: Mapping[TopicPartition, GroupMember] = {} if group is None else group.owners
        topics = self.topics or sorted({key.topic for key in (*committed, *owners)})
        partitions, backlogs, unknown = await self._partitions_of(topics)
        errors += unknown
        standings, more = await self._stand(partitions, committed, owners)
        errors += more
        if not self.topics:  # what was committed for a topic stays a while after the topic is gone
            errors = [error for error in errors if not isinstance(error, UnknownTopic)]
        return Standing(
            self.clock.wall_ms(),
            self.clock.monotonic(),
            group,
            standings,
            backlogs=backlogs,
            errors=errors,
        )

    async def _look_at_topics(self) -> Standing:
        partitions, backlogs, errors = await self._partitions_of(self.topics)
        committed: dict[GroupListing, Mapping[TopicPartition, int]] = {}
        for listing in await self._groups():
            offsets, _ = _settled(await self.admin.list_group_offsets(listing.group_id, partitions))
            if offsets:
                committed[listing] = offsets
        standings, more = await self._stand(partitions, {}, {})
        groups = [await self._group_standing(each, offsets, standings) for each, offsets in committed.items()]
        return Standing(
            self.clock.wall_ms(),
            self.clock.monotonic(),
            None,
            standings,
            groups,
            backlogs,
            [*errors, *more],
        )

    async def _groups(self) -> Sequence[GroupListing]:
        # A topic can be looked at without its groups: by who may not see them, and on a broker that is still loading them.
        try:
            return [each for each in await self.admin.list_groups() if each.state != GroupState.DEAD]
        except (BrokerError, UnsupportedByBroker):
            return ()

    async def _group_standing(
        self,
        listing: GroupListing,
        committed: Mapping[TopicPartition, int],
        standings: Iterable[PartitionStanding],
    ) -> GroupStanding:
        ends = {each.partition: each.high_watermark for each in standings}
        starts = {each.partition: each.log_start for each in standings}
        lags = {key: (ends[key] or 0) - offset for key, offset in committed.items()}
        behind = {key: max(committed[key], starts[key] or 0) for key, lag in lags.items() if lag > 0}
        times = await self._times_of(behind)
        now_ms = self.clock.wall_ms()
        longest_ms = max((max(now_ms - time_ms, 0) for time_ms in times.values()), default=None)
        return GroupStanding(
            listing,
            len(committed),
            sum(max(lag, 0) for lag in lags.values()),
            longest_ms if behind else 0,
        )

    async def _partitions_of(
        self, topics: Iterable[str]
    ) -> tuple[list[TopicPartition], Backlogs, list[BrokerError]]:
        outcomes = await self.admin.describe_topics(topics)
        found = [topic for topic in outcomes.values() if isinstance(topic, TopicMetadata)]
        partitions = [
            TopicPartition(topic.name, index) for topic in found for index in sorted(topic.partitions)
        ]
        errors = [topic for topic in outcomes.values() if isinstance(topic, BrokerError)]
        return partitions, await topic_backlog.ask(self.admin, found), errors

    async def _stand(
        self,
        partitions: Sequence[TopicPartition],
        committed: Mapping[TopicPartition, int],
        owners: Mapping[TopicPartition, GroupMember],
    ) -> tuple[list[PartitionStanding], list[BrokerError]]:
        starts, errors = _offsets(await self.admin.list_offsets(dict.fromkeys(partitions, EARLIEST)))
        known = [partition for partition in partitions if partition in starts]
        stable, _ = _offsets(await self.admin.list_offsets(dict.fromkeys(known, LATEST), read_committed=True))
        ends, _ = _offsets(await self.admin.list_offsets(dict.fromkeys(known, LATEST)))
        behind = {
            key: max(committed[key], starts[key])
            for key in known
            if key in committed and key in ends and committed[key] < ends[key]
        }
        times = await self._times_of(behind)
        now_ms = self.clock.wall_ms()
        standings: list[PartitionStanding] = []
        for key in partitions:
            time_ms = times.get(key)
            lag_ms = None if time_ms is None else max(now_ms - time_ms, 0)
            if key in committed and key in ends and key not in behind:
                lag_ms = 0
            standings.append(
                PartitionStanding(
                    key,
                    starts.get(key),
                    ends.get(key),
                    stable.get(key),
                    committed.get(key),
                    lag_ms,
                    owners.get(key),
                )
            )
        return standings, errors

    async def _times_of(self, offsets: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """The times of the records at these offsets, as far as they have one."""
        unknown = {key: offset for key, offset in offsets.items() if (key, offset) not in self._times}
        for key, outcome in (await self.admin.first_timestamps(unknown)).items():
            if isinstance(outcome, int):
                self._times[key, unknown[key]] = outcome
        found = {
            key: self._times[key, offset] for key, offset in offsets.items() if (key, offset) in self._times
        }
        if len(self._times) > _REMEMBERED_TIMES_MAX:
            self._times.clear()
        return {key: time_ms for key, time_ms in found.items() if time_ms >= 0}


def _settled(
    outcomes: Mapping[TopicPartition, OffsetAndMetadata | BrokerError | None],
) -> tuple[dict[TopicPartition, int], list[BrokerError]]:
    offsets = {key: each.offset for key, each in outcomes.items() if isinstance(each, OffsetAndMetadata)}
    return offsets, [each for each in outcomes.values() if isinstance(each, BrokerError)]


def _offsets(
    outcomes: Mapping[TopicPartition, FoundOffset | BrokerError],
) -> tuple[dict[TopicPartition, int], list[BrokerError]]:
    offsets = {key: each.offset for key, each in outcomes.items() if isinstance(each, FoundOffset)}
    return offsets, [each for each in outcomes.values() if isinstance(each, BrokerError)]


__all__ = ["GroupStanding", "Looker", "PartitionStanding", "Standing"]
