"""In a cluster: asks the coordinators of groups what these have committed for the bounded partitions that this broker leads.

Owns when they are asked and what an incomplete answer means. Only a cluster loads it. A group's coordinator may be any broker, so a leader goes by what
it was told last: it may refuse early, and never late (but for what the next look brings: commits backwards, and groups that count anew). Asked
is once a second, every `HELD_INTERVAL_S` while batches wait for room, at once where a partition has come to be led, and before an append is refused by what is older than `FRESH_S`.

- A partition is told first when all whose commits count for it have answered; later on, of those that have. Who does not answer keeps its last offset.
- What was asked before a leadership began is not told to it, and who may come back (its deletion is not committed) has not answered.
- Groups of which this broker is the coordinator are read in place, at the end, so that no answer overtakes their commits.
- `*` means all groups there are. Each leader of a partition of `__consumer_offsets` is asked first for a group that nobody has, which it answers for only
  when it has read that partition, and then for its list. Where a leader changes meanwhile, the answer counts as incomplete.
"""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import count

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
"""While somebody waits for room."""
FRESH_S = 0.05
"""How old what was told may be for an append to be refused by it."""
TIMEOUT_MS = 1_000
FIRST_VERSION_WITH_GROUPS, LAST_VERSION_BY_NAME = 8, 9
NO_OFFSET = -1

Place = tuple[str, int]


@dataclass
class _Round:
    """What one look has brought."""

    wanted: dict[str, list[int]]
    """The partitions of each topic that are asked about."""
    offsets: dict[Place, dict[str, int]] = field(default_factory=dict[Place, dict[str, int]])
    answered: set[str] = field(default_factory=set[str])
    """Groups whose coordinator has answered."""
    local: set[str] = field(default_factory=set[str])
    """Of these, those that are read in place."""
    lists_all: bool = False
    """Whether no group at all is missing."""


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
                if gates:
                    await self._ask(gates)
                interval_s = INTERVAL_S if gates else math.inf
                if any(gate.held for gate in gates):
                    interval_s = HELD_INTERVAL_S
                with trio.move_on_after(interval_s):
                    await self._poked.wait()

    def _gates(self) -> list[BacklogGate]:
        return [gate for gate in self._registry.followers() if isinstance(gate, BacklogGate)]

    async def _ask(self, gates: Collection[BacklogGate]) -> None:
        wanted: dict[str, list[int]] = {}
        named: set[str] = set()
        leaderships = {gate: gate.leadership for gate in gates}
        for gate in gates:
            wanted.setdefault(gate.topic, []).append(gate.index)
            named.update(group for group in gate.bounds.groups if group != ALL_GROUPS)
            named.update(gate.rule.counted_groups)
        found = _Round(wanted)
        if self._image.topic(OFFSETS_TOPIC) is None:
            found.answered, found.lists_all = named, True
        else:
            await self._fetch(named, found)
            if any(ALL_GROUPS in gate.bounds.groups for gate in gates):
                await self._list_and_fetch(found)
        self._read_here(found)
        for gate, leadership in leaderships.items():
            if gate.leadership == leadership and self._registry.follows(gate):
                self._tell(gate, found)

    def _read_here(self, found: _Round) -> None:
        """Read what groups have committed here, in the step in which it is told. Who is not this broker's any more has not answered."""
        local, found.local = found.local, set()
        found.answered -= local
        for group_id in local:
            self._look_here(group_id, found)
        if not found.answered.issuperset(local):
            found.lists_all = False
        for name in found.wanted:
            topic = self._image.topic(name)
            meant = (NO_TOPIC_ID, topic.topic_id if topic is not None else NO_TOPIC_ID)
            for group_id, index, committed in self._groups.offsets_of(name):
                if group_id in found.local and committed.topic_id in meant:
                    found.offsets.setdefault((name, index), {})[group_id] = max(committed.offset, 0)

    def _tell(self, gate: BacklogGate, found: _Round) -> None:
        offsets = dict(found.offsets.get((gate.topic, gate.index), {}))
        groups = gate.bounds.groups
        is_complete = found.lists_all if ALL_GROUPS in groups else found.answered.issuperset(groups)
        if not is_complete and gate.rule.is_known:
            kept = gate.rule.counted_groups
            offsets.update((group, kept[group]) for group in kept if group not in found.answered)
            is_complete = True
        gate.fresh_until = self._environment.clock.monotonic() + FRESH_S
        if is_complete:
            gate.told_all(offsets)
        else:
            gate.stir()

    # All groups there are

    async def _list_and_fetch(self, found: _Round) -> None:
        leaders = self._leaders()
        probes = {self._probe(index, len(leaders)) for index in leaders}
        await self._fetch(probes, found)
        found.lists_all = found.answered.issuperset(probes)
        nodes = {leader for leader, _ in leaders.values()}
        listed: set[str] = set()
        for group_id, _ in self._groups_here():
            listed.add(group_id)
        async with trio.open_nursery() as nursery:
            for node_id in nodes - {self._node_id}:
                nursery.start_soon(self._list, node_id, listed, found)
        await self._fetch(listed - found.answered, found)
        found.lists_all &= found.answered.issuperset(listed) and leaders == self._leaders()

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

    def _groups_here(self) -> Iterable[tuple[str, object]]:
        for shard in self._groups.shards():
            yield from shard.groups.items()

    async def _list(self, node_id: int, listed: set[str], found: _Round) -> None:
        answer = await self._request(node_id, ApiKey.LIST_GROUPS, Message(states_filter=[], types_filter=[]))
        if answer is None or answer.error_code:
            found.lists_all = False
        else:
            listed.update(group.group_id for group in answer.groups)

    # Some groups

    async def _fetch(self, group_ids: Iterable[str], found: _Round) -> None:
        """Ask for what these groups have committed, each of its coordinator."""
        by_node: dict[int, list[str]] = {}
        for group_id in group_ids:
            node_id = self._groups.leader_of(group_id)
            if node_id == self._node_id:
                self._look_here(group_id, found)
            elif node_id is not None:
                by_node.setdefault(node_id, []).append(group_id)
        async with trio.open_nursery() as nursery:
            for node_id, asked in by_node.items():
                nursery.start_soon(self._fetch_from, node_id, asked, found)

    def _look_here(self, group_id: str, found: _Round) -> None:
        try:
            shard = self._groups.shard(group_id)
        except ApiError:
            return
        if shard.may_come_back(group_id):
            return
        found.answered.add(group_id)
        found.local.add(group_id)

    async def _fetch_from(self, node_id: int, group_ids: Collection[str], found: _Round) -> None:
        topics = [Message(name=name, partition_indexes=indexes) for name, indexes in found.wanted.items()]
        asked = [Message(group_id=group_id, topics=topics) for group_id in group_ids]
        request = Message(groups=asked, require_stable=True)
        answer = await self._request(
            node_id,
            ApiKey.OFFSET_FETCH,
            request,
            at_least=FIRST_VERSION_WITH_GROUPS,
            at_most=LAST_VERSION_BY_NAME,
        )
        for group in () if answer is None else answer.groups:
            if group.error_code:
                continue
            found.answered.add(group.group_id)
            for topic in group.topics:
                for partition in topic.partitions:
                    if not partition.error_code and partition.committed_offset != NO_OFFSET:
                        place = (topic.name, partition.partition_index)
                        offsets = found.offsets.setdefault(place, {})
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
    ) -> Message | None:
        """The answer; None where there is none to be had."""
        try:
            connection = await self._connection(node_id)
            return await connection.request(api_key, request, at_least=at_least, at_most=at_most)
        except PenstockError:
            broken = self._connections.pop(node_id, None)
            if broken is not None:
                broken.close()
            return None

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
