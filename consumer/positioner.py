"""Gets every partition its leader and its position.

Owns Metadata of the assigned partitions, committed offsets to begin from, resets by policy, and the check that the log still has what was read when
a leader changes (KIP-320). Does not fetch records.

When a check finds that the log was cut below the position: with auto_offset_reset "earliest" or "latest" the position goes back to where the log
begins to differ (as Kafka's consumer does; where the broker can't tell, the policy applies); with "none" LogTruncated is raised.

Invariants: one task; it sleeps until it is woken, or until the metadata is five minutes old.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence

import trio

from penstock.client.admin_values import FoundOffset
from penstock.client.backoff import RetryPolicy
from penstock.client.cluster import Cluster
from penstock.client.errors import UnknownTopic, UnsupportedByBroker
from penstock.client.group_values import OffsetAndMetadata
from penstock.client.metadata import PartitionMetadata, TopicMetadata, TopicPartition
from penstock.client.topic_cache import TOPIC_AGE_MAX_MS, TopicCache
from penstock.consumer.assignment_state import AssignmentState, PartitionState, Phase
from penstock.consumer.errors import LogTruncated, NoInitialOffset, PositionOutOfRange
from penstock.consumer.handout import Handout
from penstock.consumer.offset_lookup import (
    EARLIEST,
    LATEST,
    UNREACHABLE,
    EpochEnd,
    OffsetLookup,
    by_topic,
    is_worth_asking_again,
)
from penstock.consumer.options import OffsetReset
from penstock.consumer.signal import Signal
from penstock.consumer.subscription import Subscription
from penstock.errors import PenstockError
from penstock.runtime.environment import Environment

UNKNOWN_PATIENCE_S = 5.0
"""How long an assigned topic may be unknown (just created, or about to be) before that is an error."""
PATTERN_AGE_MAX_S = 30.0
_POSITIONED = frozenset({Phase.FETCH, Phase.VALIDATE})

StartingOffsets = Callable[
    [Sequence[TopicPartition]], Awaitable[Mapping[TopicPartition, OffsetAndMetadata | None]]
]


async def _nothing_committed(
    partitions: Sequence[TopicPartition],
) -> Mapping[TopicPartition, OffsetAndMetadata | None]:
    return dict.fromkeys(partitions)


def _nothing() -> None:
    """Nobody minds."""


class Positioner:
    """The background task that makes partitions fetchable."""

    def __init__(
        self,
        cluster: Cluster,
        topics: TopicCache,
        lookup: OffsetLookup,
        environment: Environment,
        state: AssignmentState,
        handout: Handout,
    ) -> None:
        self._cluster = cluster
        self._topics = topics
        self._lookup = lookup
        self._environment = environment
        self._state = state
        self._handout = handout
        self._policy = RetryPolicy(wait_max_ms=250)
        self._work = Signal()
        self._subscription = Subscription()
        self._failure_count = 0
        self.starting_offsets: StartingOffsets = _nothing_committed
        self.is_managed = False
        """A group decides what is assigned: a topic that vanished is its business."""
        self.on_positioned: Callable[[], None] = _nothing

    def wake(self) -> None:
        """Something was assigned, sought, or lost its leader."""
        self._work.set()

    def subscribe(self, subscription: Subscription) -> None:
        """Without a group: have all partitions of these topics."""
        self._subscription = subscription
        self.wake()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            is_settled = await self._step()
            self.on_positioned()
            if is_settled:
                self._failure_count = 0
                age_max_s = TOPIC_AGE_MAX_MS / 1000
                with trio.move_on_after(PATTERN_AGE_MAX_S if self._subscription.pattern else age_max_s):
                    await self._work.wait()
            else:
                self._failure_count += 1
                await trio.sleep(self._policy.wait_ms(self._failure_count, self._environment.random) / 1000)

    def lost_leader(self, state: PartitionState) -> None:
        """Its leader is none any more: look who is."""
        state.leader_id = -1
        self._topics.invalidate(state.tp.topic)
        self.wake()

    def learn_leader(self, state: PartitionState, leader: tuple[int, int] | None) -> bool:
        """Its leader is none any more and has told who is (KIP-951); whether that is news. Then it is gone to at once."""
        if leader is None or self._topics.learn_leader(state.tp.topic, state.tp.partition, *leader) is None:
            return False
        state.leader_id = -1
        self.wake()
        return True

    def back_off(self, state: PartitionState) -> None:
        """A leader refused it: the first time in a row it is tried again at once, then after longer and longer."""
        state.refusal_count += 1
        if state.refusal_count > 1:
            wait_ms = self._policy.wait_ms(state.refusal_count - 1, self._environment.random)
            state.retry_at_s = self._environment.clock.monotonic() + wait_ms / 1000
            self.lost_leader(state)

    def out_of_range(self, state: PartitionState) -> None:
        """The leader does not have the fetch offset: apply the policy."""
        policy = self._state.reset_policy(state)
        if state.stop_offset is not None:
            state.reset(EARLIEST)  # a bounded read: what retention took meanwhile is skipped
        elif policy is OffsetReset.NONE:
            state.failure = PositionOutOfRange(state.tp, state.fetch_offset)
        else:
            state.reset(EARLIEST if policy is OffsetReset.EARLIEST else LATEST)

    async def _step(self) -> bool:
        """One round. Returns whether all is well; if not, another follows soon."""
        outcomes = [await self._follow_subscription(), await self._find_leaders()]
        led = [
            state
            for state in self._state.partitions.values()
            if state.leader_id >= 0 and state.failure is None
        ]
        outcomes.append(await self._begin([state for state in led if state.phase is Phase.UNPOSITIONED]))
        outcomes.append(await self._reset([state for state in led if state.phase is Phase.RESET]))
        outcomes.append(await self._validate([state for state in led if state.phase is Phase.VALIDATE]))
        return all(outcomes)

    # Metadata

    async def _follow_subscription(self) -> bool:
        subscription = self._subscription
        if subscription.is_empty:
            return True
        names = subscription.topics
        try:
            if subscription.pattern is not None:
                found = await self._cluster.refresh(None)
                names = subscription.matching(found.topics.values())
            topics = await self._get_topics(names)
        except UNREACHABLE:
            return False
        except PenstockError as error:
            if not is_worth_asking_again(error):
                self._handout.report(error)
            return False
        if subscription is not self._subscription:
            return False
        known = [topic for topic in topics.values() if isinstance(topic, TopicMetadata)]
        self._handout.set_assignment(
            frozenset(TopicPartition(topic.name, index) for topic in known for index in topic.partitions)
            | {tp for tp in self._state.partitions if tp.topic in names}
        )
        for outcome in topics.values():
            if isinstance(outcome, PenstockError) and not is_worth_asking_again(outcome):
                self._note_unknown(outcome)
        return len(known) == len(topics)

    def _note_unknown(self, error: PenstockError) -> None:
        """A subscribed topic that is not there is no error for long: it may come. One that may not be read is one at once."""
        if not isinstance(error, UnknownTopic):
            self._handout.report(error)

    async def _get_topics(
        self, names: Sequence[str] | frozenset[str]
    ) -> dict[str, TopicMetadata | PenstockError]:
        found: dict[str, TopicMetadata | PenstockError] = {}

        async def get(name: str) -> None:
            try:
                found[name] = await self._topics.get(name)
            except PenstockError as error:
                found[name] = error

        async with trio.open_nursery() as nursery:
            for name in sorted(names):
                nursery.start_soon(get, name)
        return found

    async def _find_leaders(self) -> bool:
        is_settled = True
        now_s = self._environment.clock.monotonic()
        groups = by_topic(self._state.partitions)
        for name, topic in (await self._get_topics(list(groups))).items():
            for tp in groups[name]:
                state = self._state.partitions.get(tp)
                if state is None:
                    continue
                if state.retry_at_s > now_s:
                    is_settled = False
                elif isinstance(topic, TopicMetadata) and tp.partition in topic.partitions:
                    partition = topic.partitions[tp.partition]
                    state.unknown_since_s = None
                    self._lead(state, topic, partition)
                    is_settled = is_settled and partition.leader >= 0
                else:
                    self._is_unknown(state, topic)
                    is_settled = False
            if not is_settled:
                self._topics.invalidate(name)
        return is_settled

    def _lead(self, state: PartitionState, topic: TopicMetadata, partition: PartitionMetadata) -> None:
        state.leader_id = partition.leader
        if state.topic_id is not None and topic.topic_id != state.topic_id:
            # Another topic of the same name: nothing that was known of the old one holds, nor is there anything to commit.
            self._handout.forget_position(state.tp)
            state.clear()
            state.position = state.fetch_offset = -1
            state.leader_epoch = state.fetch_epoch = state.position_epoch = -1
            if state.phase in _POSITIONED:
                state.phase = Phase.UNPOSITIONED  # else what it needs holds for this one, too
        state.topic_id = topic.topic_id
        if partition.leader_epoch != state.leader_epoch:
            if partition.leader_epoch < state.leader_epoch and topic.topic_id is not None:
                return  # older than what is known: a broker that lags behind
            state.leader_epoch = partition.leader_epoch
            if state.phase is Phase.FETCH and state.fetch_epoch >= 0 and state.leader_epoch >= 0:
                state.generation += 1
                state.phase = Phase.VALIDATE

    def _is_unknown(self, state: PartitionState, topic: TopicMetadata | PenstockError) -> None:
        now_s = self._environment.clock.monotonic()
        state.leader_id = -1
        if isinstance(topic, PenstockError) and not isinstance(topic, (UnknownTopic, *UNREACHABLE)):
            if not is_worth_asking_again(topic):
                self._fail(state, topic)
            return
        if isinstance(topic, UNREACHABLE):
            return
        if state.unknown_since_s is None:
            state.unknown_since_s = now_s
        elif now_s - state.unknown_since_s > UNKNOWN_PATIENCE_S and not self.is_managed:
            state.unknown_since_s = None
            error = topic if isinstance(topic, PenstockError) else _unknown_partition(state.tp)
            self._fail(state, error)

    def _fail(self, state: PartitionState, error: PenstockError) -> None:
        state.failure = error
        self._handout.note_positions()
        self._handout.data.set()

    # Positions

    async def _begin(self, states: Sequence[PartitionState]) -> bool:
        if not states:
            return True
        generations = {state.tp: state.generation for state in states}
        try:
            committed = await self.starting_offsets([state.tp for state in states])
        except PenstockError as error:
            if not is_worth_asking_again(error):
                for state in states:
                    self._fail(state, error)
            return False
        for state in states:
            if state.generation != generations[state.tp] or state.phase is not Phase.UNPOSITIONED:
                continue
            found = committed.get(state.tp)
            if found is not None:
                state.found(found.offset, found.leader_epoch)
                if found.leader_epoch >= 0 and state.leader_epoch >= 0:
                    state.phase = Phase.VALIDATE
            else:
                self._begin_without(state)
        pending = [state for state in states if state.phase is Phase.RESET]
        return await self._reset(pending)

    def _begin_without(self, state: PartitionState) -> None:
        policy = self._state.reset_policy(state)
        if policy is OffsetReset.NONE:
            self._fail(
                state, NoInitialOffset(state.tp, 'no committed offset, and auto_offset_reset is "none"')
            )
        else:
            state.reset(EARLIEST if policy is OffsetReset.EARLIEST else LATEST)

    async def _reset(self, states: Sequence[PartitionState]) -> bool:
        if not states:
            return True
        generations = {state.tp: state.generation for state in states}
        found = await self._lookup.find_once({state.tp: state.reset_timestamp for state in states})
        is_settled = True
        for state in states:
            outcome = found.get(state.tp)
            if state.generation != generations[state.tp]:
                is_settled = False
            elif isinstance(outcome, FoundOffset):
                self._found(state, outcome)
            else:
                is_settled = False
                self._not_found(state, outcome)
        return is_settled

    def _found(self, state: PartitionState, outcome: FoundOffset) -> None:
        if state.stop_offset is not None and outcome.offset < state.fetch_offset:
            self._fail(state, LogTruncated(state.tp, state.fetch_offset, -1))
            return
        if outcome.offset < state.fetch_offset:
            # Another log, or a shorter one: what waits of the old one may not come before what this one has from here on.
            self._handout.forget_position(state.tp)
            state.drop_buffer()
        state.found(max(outcome.offset, 0), outcome.leader_epoch if state.reset_timestamp == LATEST else -1)

    def _not_found(self, state: PartitionState, outcome: PenstockError | None) -> None:
        if outcome is None or is_worth_asking_again(outcome) or isinstance(outcome, UnknownTopic):
            self.lost_leader(state)
        else:
            self._fail(state, outcome)

    async def _validate(self, states: Sequence[PartitionState]) -> bool:
        if not states:
            return True
        generations = {state.tp: state.generation for state in states}
        ends = await self._lookup.epoch_ends_once({state.tp: state.fetch_epoch for state in states})
        is_settled = True
        for state in states:
            outcome = ends.get(state.tp)
            if state.generation != generations[state.tp]:
                is_settled = False
            elif isinstance(outcome, EpochEnd):
                self._validated(state, outcome)
            elif isinstance(outcome, UnsupportedByBroker):
                state.phase = Phase.FETCH  # an old broker: nothing to check with
            else:
                is_settled = False
                self._not_found(state, outcome)
        return is_settled

    def _validated(self, state: PartitionState, end: EpochEnd) -> None:
        if end.end_offset >= state.fetch_offset:
            state.phase = Phase.FETCH
        elif end.end_offset >= 0 and state.truncate(end.end_offset, end.leader_epoch):
            pass
        elif self._state.reset_policy(state) is OffsetReset.NONE or state.stop_offset is not None:
            self._fail(state, LogTruncated(state.tp, state.position, end.end_offset))
        elif end.end_offset < 0:
            self._handout.forget_position(state.tp)
            state.clear()
            self._begin_without(state)
            self.wake()
        else:
            self._handout.forget_position(state.tp)
            # The position may now be lower: what a loop had still before it is in the buffer.
            if not state.truncate(end.end_offset, end.leader_epoch):
                state.seek(end.end_offset, end.leader_epoch)


def _unknown_partition(tp: TopicPartition) -> PenstockError:
    from penstock.client.errors import broker_error
    from penstock.protocol.errors import ErrorCode

    return broker_error(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, subject=f"partition {tp}")


__all__ = ["Positioner", "StartingOffsets"]
