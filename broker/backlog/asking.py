"""In a cluster: asks the coordinators of groups what these have committed for the bounded partitions that this broker leads.

Owns when they are asked and what an incomplete answer means. Only a cluster loads it. A group's coordinator may be any broker, so a leader goes by what
it was told last: it may refuse early, and never late (but for what the next look brings: commits backwards, and groups that count anew). All are asked
in rounds: once a second, every `HELD_INTERVAL_S` while batches wait for room, and no later than that after the last one where a partition has come
to be led, a batch begins to wait, or one is to be refused by what is too old for it (`BacklogGate.may_refuse`).

- A partition is told first when all whose commits count for it have answered; later on, of those that have. Who does not answer keeps its last offset.
- What was asked before a leadership began is not told to it, and who may come back (its deletion is not committed) has not answered.
- Groups of which this broker is the coordinator are read in place, at the end, so that no answer overtakes their commits.
- `*` means all groups there are. Each leader of a partition of `__consumer_offsets` is asked first for a group that nobody has, which it answers for only
  when it has read that partition, and then for its list. Where a leader changes meanwhile, the answer counts as incomplete.
- **Nobody waits for who is slow.** Each broker is asked by a task of its own. A round waits `PATIENCE_S` for those that it asks, and tells what there is by
  then; what comes later is told with a later round, and who owes an answer still is not asked again before. Who did not answer last time, or has owed an answer
  for `TIMEOUT_MS`, is silent: until it answers, what it told last is as good as new.
- **What is told is as old as the request** that was answered by it, the first one where there were several; of those, each answer is told as it comes.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain, count

import trio

from penstock.broker.backlog.bounds import ALL_GROUPS
from penstock.broker.backlog.gate import BacklogGate
from penstock.broker.backlog.registry import NO_TOPIC_ID, BacklogRegistry
from penstock.broker.broker_config import BrokerConfig
from penstock.broker.errors import ApiError
from penstock.broker.groups.coordinator import GroupCoordinator
from penstock.broker.groups.offsets_topic import OFFSETS_TOPIC, partition_for
from penstock.broker.image import ClusterImage
from penstock.client.connection import Connection, ConnectionSettings, open_connection
from penstock.errors import PenstockError
from penstock.protocol.api import ApiKey
from penstock.protocol.message import Message
from penstock.runtime.environment import Environment

INTERVAL_S = 1.0
HELD_INTERVAL_S = 0.05
"""While somebody waits for room; also the least time between two rounds."""
PATIENCE_S = 0.025
"""How long a round waits for answers."""
TIMEOUT_MS = 1_000
FIRST_VERSION_WITH_GROUPS, LAST_VERSION_BY_NAME = 8, 9
NO_OFFSET = -1

Place = tuple[str, int]
Offsets = dict[Place, dict[str, int]]
"""By partition and group."""


@dataclass(frozen=True)
class _Question:
    """What a round asks."""

    asked_at: float
    leaderships: Mapping[BacklogGate, int]
    """Who is asked for, and which leadership of it."""
    wanted: Mapping[str, list[int]]
    """The partitions of each topic that are asked about."""
    leaders: Mapping[int, tuple[int, int]]
    """Leader and leader epoch of each partition of the offsets topic."""
    wants_all: bool
    """Whether the groups that there are matter to somebody."""


@dataclass
class _Answer:
    """What one broker has told of the groups that it coordinates."""

    question: _Question
    asked: set[str] = field(default_factory=set[str])
    answered: set[str] = field(default_factory=set[str])
    """Of the groups that were asked about, those that it answers for."""
    offsets: Offsets = field(default_factory=Offsets)
    lists_all: bool = False
    """Whether no group at all is missing, of the partitions that it led when it was asked."""

    def is_for(self, gate: BacklogGate) -> bool:
        """Whether it was asked for this leadership."""
        return self.question.leaderships.get(gate) == gate.leadership


@dataclass
class _Coordinator:
    """Another broker, as far as it is asked."""

    answer: _Answer | None = None
    """The last one, until everybody has been told of it."""
    asked_at: float = math.inf
    """Since when it owes an answer."""
    done: trio.Event = field(default_factory=trio.Event)
    """It owes none any more."""
    has_failed: bool = False

    def is_silent(self, now: float) -> bool:
        """Whether nothing is to be expected of it."""
        return self.has_failed or now - self.asked_at >= TIMEOUT_MS / 1000


@dataclass(slots=True)
class _Group:
    """Who tells of a group, at the moment in which gates are told."""

    coordinator: int | None
    is_here: bool
    """Whether what this broker has of it counts."""
    is_new: bool
    """Whether no newer news of it can be had now: it is read in place, or nobody is there to tell."""


@dataclass
class _Telling:
    """What is known at the moment in which gates are told."""

    now: float
    leaders: Mapping[int, tuple[int, int]]
    """As in `_Question`."""
    groups: dict[str, "_Group"] = field(default_factory=dict[str, "_Group"])
    """Those that were looked at."""
    here: Offsets = field(default_factory=Offsets)
    """What groups of this broker have committed."""


class OffsetAsker:
    """See the module. `run` in a nursery."""

    def __init__(
        self,
        environment: Environment,
        config: BrokerConfig,
        image: ClusterImage,
        groups: GroupCoordinator,
        registry: BacklogRegistry,
    ) -> None:
        self._environment = environment
        self._node_id = config.node_id
        self._listener = config.inter_broker_listener_name
        self._settings = ConnectionSettings(
            client_id=f"penstock-broker-{config.node_id}",
            connect_timeout_ms=TIMEOUT_MS,
            request_timeout_ms=TIMEOUT_MS,
        )
        self._image = image
        self._groups = groups
        self._registry = registry
        self._coordinators: dict[int, _Coordinator] = {}
        self._connections: dict[int, Connection] = {}
        self._nursery: trio.Nursery | None = None
        self._poked = trio.Event()
        self._probes: dict[int, str] = {}

    def poke(self) -> None:
        """Ask now."""
        self._poked.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Ask whenever it is time, for ever."""
        self._registry.ask_others(self.poke)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            while True:
                self._poked = trio.Event()
                gates = self._gates()
                if not gates:
                    await self._poked.wait()
                    continue
                began_at = self._now()
                await self._ask(gates)
                await trio.sleep(max(HELD_INTERVAL_S - (self._now() - began_at), 0))
                if not any(gate.held for gate in self._gates()):
                    with trio.move_on_after(INTERVAL_S - HELD_INTERVAL_S):
                        await self._poked.wait()

    def _now(self) -> float:
        return self._environment.clock.monotonic()

    def _gates(self) -> list[BacklogGate]:
        return [gate for gate in self._registry.followers() if isinstance(gate, BacklogGate)]

    # A round

    async def _ask(self, gates: Collection[BacklogGate]) -> None:
        """Ask those that owe no answer, wait a little, and tell what there is."""
        assert self._nursery is not None
        wanted: dict[str, list[int]] = {}
        for gate in gates:
            wanted.setdefault(gate.topic, []).append(gate.index)
        wants_all = any(ALL_GROUPS in gate.bounds.groups for gate in gates)
        leaderships = {gate: gate.leadership for gate in gates}
        question = _Question(self._now(), leaderships, wanted, self._leaders(), wants_all)
        awaited: list[trio.Event] = []
        for node_id, group_ids in self._groups_elsewhere(question).items():
            node = self._coordinators.setdefault(node_id, _Coordinator())
            if node.asked_at != math.inf:
                continue
            node.asked_at, node.done = question.asked_at, trio.Event()
            self._nursery.start_soon(self._ask_one, node_id, node, group_ids, question)
            awaited.append(node.done)
        with trio.move_on_after(PATIENCE_S):
            for done in awaited:
                await done.wait()
        self._tell_all(gates)

    def _groups_elsewhere(self, question: _Question) -> dict[int, set[str]]:
        """Whom to ask about which groups at first."""
        named: set[str] = set()
        for gate in question.leaderships:
            named.update(group for group in gate.bounds.groups if group != ALL_GROUPS)
            named.update(gate.rule.counted_groups)
        by_node: dict[int, set[str]] = {}
        for group_id in named:
            node_id = self._groups.leader_of(group_id)
            if node_id is not None and node_id != self._node_id:
                by_node.setdefault(node_id, set()).add(group_id)
        if question.wants_all:
            for index, (node_id, _) in question.leaders.items():
                if node_id >= 0 and node_id != self._node_id:
                    probe = self._probe(index, len(question.leaders))
                    by_node.setdefault(node_id, set()).add(probe)
        return by_node

    def _leaders(self) -> dict[int, tuple[int, int]]:
        """Leader and leader epoch of each partition of the offsets topic; -1 for none."""
        topic = self._image.topic(OFFSETS_TOPIC)
        if topic is None:
            return {}
        return {
            state.index: (state.leader, state.leader_epoch)
            for state in self._image.partitions(topic.topic_id)
        }

    def _probe(self, index: int, partition_count: int) -> str:
        """A group that nobody has, of a partition of the offsets topic."""
        if index not in self._probes:
            names = (f"__penstock_backlog_{number}" for number in count())
            self._probes[index] = next(
                name for name in names if partition_for(name, partition_count) == index
            )
        return self._probes[index]

    # What is told

    def _tell_all(self, gates: Collection[BacklogGate]) -> None:
        telling = _Telling(self._now(), self._leaders())
        self._read_here(dict.fromkeys(gate.topic for gate in gates), telling)
        knows_all = True
        for gate in gates:
            if self._registry.follows(gate):
                self._tell(gate, telling)
            knows_all &= gate.rule.is_known
        if knows_all:
            for node in self._coordinators.values():
                node.answer = None

    def _read_here(self, topics: Iterable[str], telling: _Telling) -> None:
        """Read what groups have committed here, in the step in which it is told."""
        for name in topics:
            topic = self._image.topic(name)
            meant = (NO_TOPIC_ID, topic.topic_id if topic is not None else NO_TOPIC_ID)
            for group_id, index, committed in self._groups.offsets_of(name):
                if committed.topic_id in meant:
                    telling.here.setdefault((name, index), {})[group_id] = max(committed.offset, 0)

    def _group(self, group_id: str, telling: _Telling) -> _Group:
        group = telling.groups.get(group_id)
        if group is None:
            node_id = self._groups.leader_of(group_id)
            is_mine = node_id == self._node_id
            node = None if node_id is None else self._coordinators.get(node_id)
            is_new = is_mine or node_id is None or (node is not None and node.is_silent(telling.now))
            is_here = is_mine and self._is_readable(group_id)
            group = telling.groups[group_id] = _Group(node_id, is_here, is_new)
        return group

    def _is_readable(self, group_id: str) -> bool:
        """Whether what this broker has of a group counts. Who is not this broker's any more has not answered."""
        try:
            return not self._groups.shard(group_id).may_come_back(group_id)
        except ApiError:
            return False

    def _tell(self, gate: BacklogGate, telling: _Telling) -> None:
        """Tell one gate what its groups have by the newest answers, or had before, and how old that is."""
        place = (gate.topic, gate.index)
        answers = self._answers(gate)
        kept = gate.rule.counted_groups
        here = telling.here.get(place, {})
        told: dict[int | None, dict[str, int]] = {
            node_id: answer.offsets.get(place, {}) for node_id, answer in answers.items()
        }
        offsets: dict[str, int] = {}
        asked_at: dict[str, float] = {}
        for group_id in dict.fromkeys(chain(kept, here, *told.values())):
            group = telling.groups.get(group_id) or self._group(group_id, telling)
            answer = answers.get(group.coordinator)
            offset = kept.get(group_id)
            if group.is_here:
                offset = here.get(group_id)
            elif answer is not None and group_id in answer.answered:
                offset = told[group.coordinator].get(group_id)
            if offset is None:
                continue
            offsets[group_id] = offset
            if group.is_new:
                asked_at[group_id] = telling.now
            elif answer is not None and group_id in answer.asked:
                asked_at[group_id] = answer.question.asked_at
            else:
                asked_at[group_id] = gate.asked_at.get(group_id, -math.inf)
        gate.asked_at = asked_at
        if gate.rule.is_known or self._is_complete(gate, answers, telling):
            gate.told_all(offsets)
        else:
            gate.stir()

    def _answers(self, gate: BacklogGate) -> dict[int | None, _Answer]:
        """What has been told that counts for this gate, by broker."""
        answers: dict[int | None, _Answer] = {}
        for node_id, node in self._coordinators.items():
            if node.answer is not None and node.answer.is_for(gate):
                answers[node_id] = node.answer
        return answers

    def _is_complete(
        self, gate: BacklogGate, answers: Mapping[int | None, _Answer], telling: _Telling
    ) -> bool:
        """Whether all whose commits count for a gate have answered."""
        if self._image.topic(OFFSETS_TOPIC) is None:
            return True
        if ALL_GROUPS not in gate.bounds.groups:
            return all(self._has_answered(group_id, answers, telling) for group_id in gate.bounds.groups)
        leaders = telling.leaders
        for index, (node_id, epoch) in leaders.items():
            if node_id == self._node_id:
                if not self._group(self._probe(index, len(leaders)), telling).is_here:
                    return False
                continue
            answer = answers.get(node_id)
            if answer is None or not answer.lists_all:
                return False
            if answer.question.leaders.get(index) != (node_id, epoch):
                return False
        return True

    def _has_answered(self, group_id: str, answers: Mapping[int | None, _Answer], telling: _Telling) -> bool:
        group = self._group(group_id, telling)
        answer = answers.get(group.coordinator)
        return group.is_here or (answer is not None and group_id in answer.answered)

    # One coordinator

    async def _ask_one(
        self, node_id: int, node: _Coordinator, group_ids: Collection[str], question: _Question
    ) -> None:
        """Ask one broker about these groups, and (if that matters) about all others that it has."""
        answer = _Answer(question)
        node_failed = True
        try:
            await self._fetch(node_id, group_ids, answer)
            if node.answer is None:  # else somebody may need all of the one before
                node.answer = answer
            if question.wants_all:
                await self._list_and_fetch(node_id, group_ids, answer)
            node_failed = False
        except PenstockError:
            broken = self._connections.pop(node_id, None)
            if broken is not None:
                broken.close()
        if answer.answered or not node_failed:
            node.answer = answer
        node.has_failed, node.asked_at = node_failed, math.inf
        node.done.set()

    async def _list_and_fetch(self, node_id: int, group_ids: Collection[str], answer: _Answer) -> None:
        told = await self._request(node_id, ApiKey.LIST_GROUPS, Message(states_filter=[], types_filter=[]))
        if told.error_code:
            return
        listed = {group.group_id for group in told.groups}
        others = listed - answer.asked
        if others:
            await self._fetch(node_id, others, answer)
        answer.lists_all = answer.answered.issuperset(listed.union(group_ids))

    async def _fetch(self, node_id: int, group_ids: Collection[str], answer: _Answer) -> None:
        """Ask for what these groups have committed."""
        wanted = answer.question.wanted
        topics = [Message(name=name, partition_indexes=indexes) for name, indexes in wanted.items()]
        groups = [Message(group_id=group_id, topics=topics) for group_id in group_ids]
        told = await self._request(
            node_id,
            ApiKey.OFFSET_FETCH,
            Message(groups=groups, require_stable=True),
            at_least=FIRST_VERSION_WITH_GROUPS,
            at_most=LAST_VERSION_BY_NAME,
        )
        answer.asked.update(group_ids)
        for group in told.groups:
            if group.error_code:
                continue
            answer.answered.add(group.group_id)
            for topic in group.topics:
                for partition in topic.partitions:
                    if not partition.error_code and partition.committed_offset != NO_OFFSET:
                        place = (topic.name, partition.partition_index)
                        offsets = answer.offsets.setdefault(place, {})
                        offsets[group.group_id] = max(partition.committed_offset, 0)

    # Connections

    async def _request(
        self,
        node_id: int,
        api_key: ApiKey,
        request: Message,
        *,
        at_least: int = 0,
        at_most: int | None = None,
    ) -> Message:
        """The answer. Raises PenstockError where there is none to be had."""
        connection = await self._connection(node_id)
        return await connection.request(api_key, request, at_least=at_least, at_most=at_most)

    async def _connection(self, node_id: int) -> Connection:
        broker = self._image.brokers.get(node_id)
        endpoint = None if broker is None else broker.endpoints.get(self._listener)
        if endpoint is None:
            raise PenstockError(f"broker {node_id} can't be asked")
        connection = self._connections.get(node_id)
        if connection is None or not connection.is_open:
            assert self._nursery is not None
            connection = self._connections[node_id] = await open_connection(
                self._nursery, self._environment.network, endpoint.host, endpoint.port, self._settings
            )
        return connection


__all__ = ["OffsetAsker"]
