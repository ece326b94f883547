"""Group requests to a `MemoryBroker`, in few words: what a client of one version would read of the answers."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from tests.support.memory_broker import MemoryBroker

from penstock.broker.groups.coordinator import GroupCoordinator
from penstock.broker.groups.shard import GroupShard
from penstock.protocol.api import ApiKey
from penstock.protocol.message import Message

NEWEST = {
    ApiKey.FIND_COORDINATOR: 5,
    ApiKey.JOIN_GROUP: 9,
    ApiKey.SYNC_GROUP: 5,
    ApiKey.HEARTBEAT: 4,
    ApiKey.LEAVE_GROUP: 5,
    ApiKey.LIST_GROUPS: 5,
    ApiKey.DESCRIBE_GROUPS: 6,
    ApiKey.DELETE_GROUPS: 2,
    ApiKey.OFFSET_DELETE: 0,
    ApiKey.OFFSET_COMMIT: 9,
    ApiKey.OFFSET_FETCH: 9,
}
SUBSCRIPTION = b"\x00\x00\x00\x00\x00\x01\x00\x06orders\xff\xff\xff\xff"
"""What a consumer of "orders" sends with its protocol (version 0)."""


class GroupCalls:
    """A client of the groups of one broker."""

    def __init__(self, memory: MemoryBroker) -> None:
        self.memory = memory

    @property
    def coordinator(self) -> GroupCoordinator:
        """The broker's."""
        return self.memory.broker.groups

    def shard(self, group: str) -> GroupShard:
        """The group's."""
        return self.coordinator.shard(group)

    async def call(self, api_key: ApiKey, version: int | None = None, /, **fields: Any) -> Message:
        """Any of the group APIs."""
        handler = import_module(f"penstock.broker.api.{api_key.name.lower()}").handle
        return await self.memory.call(
            handler, api_key, NEWEST[api_key] if version is None else version, **fields
        )

    async def find(self, group: str = "g") -> None:
        """Have the offsets topic made, as every client does first."""
        answer = await self.call(ApiKey.FIND_COORDINATOR, coordinator_keys=[group])
        assert answer.coordinators[0].error_code == 0

    async def commit(
        self,
        group: str = "g",
        offsets: Mapping[int, int] | None = None,
        *,
        topic: str = "orders",
        metadata: str = "",
        version: int | None = None,
        **more: Any,
    ) -> list[int]:
        """Commit offsets by partition; the codes."""
        partitions = [
            Message(partition_index=index, committed_offset=offset, committed_metadata=metadata)
            for index, offset in (offsets or {0: 7}).items()
        ]
        topics = [Message(name=topic, partitions=partitions)]
        answer = await self.call(ApiKey.OFFSET_COMMIT, version, group_id=group, topics=topics, **more)
        return [partition.error_code for partition in answer.topics[0].partitions]

    async def committed(self, group: str = "g", topic: str = "orders", partition: int = 0) -> int:
        """What is committed for one partition; -1 for nothing."""
        topics = [Message(name=topic, partition_indexes=[partition])]
        answer = await self.call(ApiKey.OFFSET_FETCH, groups=[Message(group_id=group, topics=topics)])
        assert answer.groups[0].error_code == 0
        offset: int = answer.groups[0].topics[0].partitions[0].committed_offset
        return offset

    async def join(self, group: str = "g", member_id: str = "", **more: Any) -> Message:
        """Join as a consumer of "orders"."""
        fields: dict[str, Any] = {
            "session_timeout_ms": 10_000,
            "rebalance_timeout_ms": 10_000,
            "protocol_type": "consumer",
            "protocols": [Message(name="range", metadata=SUBSCRIPTION)],
            **more,
        }
        return await self.call(ApiKey.JOIN_GROUP, group_id=group, member_id=member_id, **fields)

    async def become_member(self, group: str = "g", **more: Any) -> tuple[str, int]:
        """Be the only member of a stable group; member id and generation."""
        first = await self.join(group, **more)
        joined = await self.join(group, first.member_id, **more)
        assert joined.error_code == 0, joined
        synced = await self.call(
            ApiKey.SYNC_GROUP,
            group_id=group,
            generation_id=joined.generation_id,
            member_id=joined.member_id,
            protocol_type="consumer",
            protocol_name="range",
            assignments=[Message(member_id=joined.member_id, assignment=b"mine")],
        )
        assert (synced.error_code, synced.assignment) == (0, b"mine")
        return joined.member_id, joined.generation_id

    async def heartbeat(self, group: str, member_id: str, generation: int) -> int:
        """The code."""
        answer = await self.call(
            ApiKey.HEARTBEAT, group_id=group, member_id=member_id, generation_id=generation
        )
        return int(answer.error_code)

    async def leave(self, group: str, member_id: str) -> Message:
        """Leave."""
        return await self.call(ApiKey.LEAVE_GROUP, group_id=group, members=[Message(member_id=member_id)])

    async def states(self, **filters: Any) -> dict[str, str]:
        """State by group."""
        answer = await self.call(ApiKey.LIST_GROUPS, **filters)
        assert answer.error_code == 0
        return {group.group_id: group.group_state for group in answer.groups}

    async def delete(self, *groups: str) -> list[int]:
        """The codes."""
        answer = await self.call(ApiKey.DELETE_GROUPS, groups_names=list(groups))
        return [result.error_code for result in answer.results]

    async def describe(self, group: str = "g") -> Message:
        """The group as DescribeGroups tells it."""
        answer = await self.call(ApiKey.DESCRIBE_GROUPS, groups=[group])
        told: Message = answer.groups[0]
        return told
