"""From the brokers into the buffers: one long poll for each broker that leads something.

Owns the fetch loops, their sessions, and what is done with each partition's answer. Does not know how a partition gets its position
(`positioner`) and what becomes of the records (`handout`).

Each broker has two tasks. One holds the long poll, on a connection of its own. Beside it, partitions that get room (or are sought, resumed,
assigned) while the poll is under way without them are asked for once without waiting, so that an idle partition never holds up a busy one.

Invariants: a partition is in at most one request at a time, but for those whose answers will be dropped; what requests under way may bring and what waits in the buffers stays together within
`prefetch_max_bytes` (but for a single batch over the limits); a paced consumer asks for nothing of which it has some seconds' records; nothing runs for a partition that is paused, full, or at its end but the long poll.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import trio

from penstock.client.backoff import RetryPolicy
from penstock.client.cluster import Cluster, ConnectionLane
from penstock.client.connection import Connection
from penstock.client.errors import UnsupportedByBroker, broker_error
from penstock.client.fetch_session import NO_SESSION_EPOCH, SESSION_ERRORS, FetchSession
from penstock.client.metadata import Address, Node, TopicPartition
from penstock.consumer.assignment_state import AssignmentState, PartitionState
from penstock.consumer.errors import CorruptRecords
from penstock.consumer.handout import Handout
from penstock.consumer.offset_lookup import WRONG_LEADER
from penstock.consumer.options import FetchOptions, IsolationLevel
from penstock.consumer.positioner import Positioner
from penstock.consumer.signal import Signal
from penstock.errors import PenstockError
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.fetch import FIRST_WITH_TOPIC_ID, FetchPartition, FetchRequest
from penstock.protocol.fetch_client import (
    FETCH_VERSION_MIN,
    FetchAnswer,
    FetchedPartition,
    decode_fetch_response,
    encode_fetch_request,
)
from penstock.runtime.environment import Environment

ROOM_MIN_BYTES = 64 * 1024
"""With less room than this no request is sent, unless nothing waits and nothing is under way."""
READ_REPLICA_AGE_MAX_S = 300.0
NO_LOG_START = -1


@dataclass(slots=True)
class _Node:
    """One broker that is fetched from."""

    node_id: int
    poll: Signal = field(default_factory=Signal)
    side: Signal = field(default_factory=Signal)
    session: FetchSession = field(default_factory=FetchSession)
    poll_number: int = 0
    is_polling: bool = False
    is_siding: bool = False
    failure_count: int = 0


Asked = Sequence[tuple[PartitionState, int, int]]
"""What a request asked for: the partition, its generation and its fetch offset then."""


class Fetcher:
    """Fills the buffers of an `AssignmentState` until it is cancelled."""

    def __init__(
        self,
        cluster: Cluster,
        environment: Environment,
        options: FetchOptions,
        state: AssignmentState,
        handout: Handout,
        positioner: Positioner,
        *,
        uses_sessions: bool = True,
    ) -> None:
        self._cluster = cluster
        self._environment = environment
        self._options = options
        self._state = state
        self._handout = handout
        self._positioner = positioner
        self._uses_sessions = uses_sessions
        self._policy = RetryPolicy()
        self._nodes: dict[int, _Node] = {}
        self.request_count = 0
        """Fetch requests sent so far."""
        handout.on_room = self.wake_nodes
        handout.on_failure_raised = self.wake
        positioner.on_positioned = self._positioned

    async def run(self) -> None:
        """Fetch, until cancelled. Cancellation: nothing that was handed out or waits in a buffer is touched."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._positioner.run)

    def wake(self) -> None:
        """Something was assigned, sought or resumed."""
        self._positioner.wake()
        self.wake_nodes()

    def wake_nodes(self) -> None:
        """There may be room, or something new to fetch."""
        for node in self._nodes.values():
            node.poll.set()
            if node.is_polling:
                node.side.set()

    def _positioned(self) -> None:
        """Partitions have got a position or another leader: see that every broker in question has its loops."""
        now_s = self._environment.clock.monotonic()
        for state in self._state.partitions.values():
            # The leader as well: it is asked when the time of a read replica is over, of which nobody tells.
            for node_id in (state.node_id(now_s), state.leader_id):
                if node_id >= 0 and node_id not in self._nodes:
                    node = self._nodes[node_id] = _Node(node_id)
                    self._nursery.start_soon(self._poll_loop, node)
                    self._nursery.start_soon(self._side_loop, node)
        self.wake_nodes()
        self._handout.note_positions()
        self._handout.data.set()

    # Loops

    async def _poll_loop(self, node: _Node) -> None:
        while True:
            wanted = [] if node.is_siding else self._wanted(node)
            size_bytes = self._size_for(wanted)
            if not size_bytes:
                await node.poll.wait()
                continue
            node.is_polling = True
            node.poll_number += 1
            try:
                await self._poll(node, wanted, size_bytes)
            finally:
                node.is_polling = False

    async def _side_loop(self, node: _Node) -> None:
        while True:
            await node.side.wait()
            while node.is_polling:
                wanted = [state for state in self._wanted(node) if state.side_fetch_poll != node.poll_number]
                size_bytes = self._size_for(wanted)
                if not size_bytes:
                    break
                node.is_siding = True
                try:
                    await self._fetch_beside(node, wanted, size_bytes)
                finally:
                    node.is_siding = False
                    node.poll.set()

    async def _poll(self, node: _Node, wanted: Sequence[PartitionState], size_bytes: int) -> None:
        session = node.session if self._uses_sessions else None
        asked = self._ask_for(wanted, size_bytes)
        try:
            connection = await self._cluster.connection(node.node_id, ConnectionLane.FETCH)
            wait_ms = self._options.fetch_max_wait_ms
            if await self._fetch(connection, asked, size_bytes, session, wait_ms) is not None:
                node.failure_count = 0
                return
            if (
                not node.failure_count
            ):  # a session that was forgotten is begun anew at once, the next one after a while
                node.failure_count = 1
                return
        except PenstockError as error:
            node.session.restart()
            self._lost(asked, error)
        finally:
            self._answered(asked, size_bytes)
        node.failure_count += 1
        node.is_polling = False  # nor is anything fetched beside it meanwhile
        await trio.sleep(self._policy.wait_ms(node.failure_count, self._environment.random) / 1000)

    async def _fetch_beside(self, node: _Node, wanted: Sequence[PartitionState], size_bytes: int) -> None:
        asked = self._ask_for(wanted, size_bytes)
        for state in wanted:
            state.side_fetch_poll = node.poll_number
        try:
            connection = await self._cluster.connection(node.node_id)
            for state in await self._fetch(connection, asked, size_bytes, None, 0) or ():
                state.side_fetch_poll = -1
        except PenstockError:
            return  # the long poll has the same trouble, and minds it
        finally:
            self._answered(asked, size_bytes)

    # One request

    def _wanted(self, node: _Node) -> list[PartitionState]:
        now_s = self._environment.clock.monotonic()
        limit, ahead_max_count = self._state.buffered_max_bytes, self._state.ahead_max_count
        wanted = [
            state
            for state in self._state.partitions.values()
            if state.wants_fetch(limit)
            and state.node_id(now_s) == node.node_id
            and (ahead_max_count is None or not state.is_ahead(ahead_max_count))
        ]
        starved = [] if self._state.awaited is None else [s for s in wanted if self._state.is_starved(s)]
        return starved or wanted

    def _size_for(self, wanted: Sequence[PartitionState]) -> int:
        """How many bytes may be asked for; 0: nothing, for now."""
        if not wanted:
            return 0
        state, options = self._state, self._options
        room = state.room_bytes()
        if room < ROOM_MIN_BYTES and (state.reserved_bytes or state.buffered_bytes):
            if not state.is_starved(wanted[0]):
                return 0
            room = ROOM_MIN_BYTES
        # Half of the room: another broker's answer, or the fetch beside the long poll, shall have some, too.
        share = max(room // 2, min(room, ROOM_MIN_BYTES))
        return max(1, min(options.fetch_max_bytes, len(wanted) * options.partition_fetch_max_bytes, share))

    def _ask_for(self, wanted: Sequence[PartitionState], size_bytes: int) -> Asked:
        self._state.reserved_bytes += size_bytes
        for state in wanted:
            state.asked_generation = state.generation
        return [(state, state.generation, state.fetch_offset) for state in wanted]

    def _answered(self, asked: Asked, size_bytes: int) -> None:
        self._state.reserved_bytes -= size_bytes
        for state, generation, _ in asked:
            if state.asked_generation == generation:
                state.asked_generation = -1
        self.wake_nodes()

    async def _fetch(
        self,
        connection: Connection,
        asked: Asked,
        size_bytes: int,
        session: FetchSession | None,
        max_wait_ms: int,
    ) -> list[PartitionState] | None:
        """Ask and take in the answer. Returns the partitions that got something; None where the broker minds the session or the topic ids."""
        at_most = None if all(state.topic_id for state, _, _ in asked) else FIRST_WITH_TOPIC_ID - 1
        version = connection.version(ApiKey.FETCH, at_least=FETCH_VERSION_MIN, at_most=at_most)
        by_id = version >= FIRST_WITH_TOPIC_ID
        wanted = {
            state.tp: FetchPartition(
                state.tp.topic,
                state.topic_id if by_id else None,
                state.tp.partition,
                state.leader_epoch,
                fetch_offset,
                -1,
                NO_LOG_START,
                self._options.partition_fetch_max_bytes,
            )
            for state, _, fetch_offset in asked
        }
        used = session or FetchSession()
        partitions, forgotten = used.next_request(wanted, by_id=by_id)
        request = FetchRequest(
            -1,
            -1,
            max_wait_ms,
            self._options.fetch_min_bytes,
            size_bytes,
            self._options.isolation_level.number,
            used.session_id,
            NO_SESSION_EPOCH if session is None else used.epoch,
            partitions,
            forgotten,
            self._options.rack,
            None,
        )
        body = encode_fetch_request(version, request)
        self.request_count += 1
        answer_body = await connection.exchange(ApiKey.FETCH, version, [body], broker_wait_ms=max_wait_ms)
        answer = decode_fetch_response(version, answer_body)
        return self._take_in(answer, used, {state.tp: (state, gen, at) for state, gen, at in asked})

    def _take_in(
        self,
        answer: FetchAnswer,
        session: FetchSession,
        asked: Mapping[TopicPartition, tuple[PartitionState, int, int]],
    ) -> list[PartitionState] | None:
        if not session.answered(answer.error_code, answer.session_id):
            if answer.error_code not in SESSION_ERRORS:
                raise broker_error(answer.error_code, subject="Fetch")
            if answer.error_code in WRONG_LEADER:  # a topic id that is none any more
                for state, _, _ in asked.values():
                    self._positioner.lost_leader(state)
            return None
        for told in answer.node_endpoints:
            self._cluster.learn_node(Node(told.node_id, Address(told.host, told.port), told.rack))
        changed: list[PartitionState] = []
        for part in answer.partitions:
            tp = session.name(part.topic, part.topic_id, part.index)
            found = None if tp is None else asked.get(tp)
            if found is None:
                continue
            state, generation, fetch_offset = found
            if part.error_code:
                self._refused(state, generation, fetch_offset, part)
            elif self._delivered(state, generation, fetch_offset, part):
                changed.append(state)
        if changed:
            self._handout.data.set()
        return changed

    def _delivered(
        self, state: PartitionState, generation: int, fetch_offset: int, part: FetchedPartition
    ) -> bool:
        if generation == state.generation:
            state.high_watermark = part.high_watermark
            state.last_stable_offset = part.last_stable_offset
            state.log_start_offset = part.log_start_offset
            committed = self._options.isolation_level is IsolationLevel.READ_COMMITTED
            state.end_offset = part.last_stable_offset if committed else part.high_watermark
            state.unknown_since_s = None
            state.refusal_count = 0
        if part.preferred_read_replica >= 0:
            now_s = self._environment.clock.monotonic()
            if part.preferred_read_replica != state.node_id(now_s):
                state.read_replica = part.preferred_read_replica
                state.read_replica_until_s = now_s + READ_REPLICA_AGE_MAX_S
                self._positioned()
        return state.deliver(generation, fetch_offset, part.records, part.aborted_transactions)

    def _refused(
        self, state: PartitionState, generation: int, fetch_offset: int, part: FetchedPartition
    ) -> None:
        if generation != state.generation or fetch_offset != state.fetch_offset:
            return
        state.side_fetch_poll = -1
        error = broker_error(part.error_code, subject=f"partition {state.tp}")
        if state.read_replica >= 0:
            if (
                error.code != ErrorCode.OFFSET_NOT_AVAILABLE
            ):  # else it is a moment behind what the leader has told
                state.read_replica = -1  # the leader shall say what is the matter
            self._rest(state)
        elif error.code == ErrorCode.OFFSET_OUT_OF_RANGE:
            self._positioner.out_of_range(state)
            self._positioner.back_off(state)
        elif error.code == ErrorCode.CORRUPT_MESSAGE:
            state.failure = CorruptRecords(
                state.tp, fetch_offset, "the log of the broker is damaged here (CORRUPT_MESSAGE)"
            )
        elif error.code in WRONG_LEADER and self._positioner.learn_leader(state, part.current_leader):
            pass
        elif error.code in WRONG_LEADER or error.is_retriable:
            self._positioner.lost_leader(state)
            self._positioner.back_off(state)
        else:
            state.failure = error
        self._handout.data.set()
        self._positioner.wake()

    def _rest(self, state: PartitionState) -> None:
        """Ask for it again a little later: leader and replica may send a consumer to and fro until they agree."""
        if not state.is_resting:
            state.is_resting = True
            self._nursery.start_soon(self._end_rest, state)

    async def _end_rest(self, state: PartitionState) -> None:
        await trio.sleep(self._policy.wait_ms(1, self._environment.random) / 1000)
        state.is_resting = False
        self.wake_nodes()

    def _lost(self, asked: Asked, error: PenstockError) -> None:
        """The broker can't be reached, or speaks nonsense: somebody else may lead by now. One that is too old is told of."""
        for state, generation, _ in asked:
            state.read_replica = -1
            self._positioner.lost_leader(state)
            if isinstance(error, UnsupportedByBroker) and state.generation == generation:
                state.failure = error
                self._handout.data.set()


__all__ = ["Fetcher"]
