"""`group.coordinator.rebalance.protocols=classic`: nobody gets a group of the consumer protocol, and nobody is told of one."""

from tests.support.group_calls import GroupCalls
from tests.support.memory_broker import memory_broker

from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode

JOIN = {
    "group_id": "g",
    "member_id": "m",
    "member_epoch": 0,
    "rebalance_timeout_ms": 1000,
    "subscribed_topic_names": ["t"],
    "topic_partitions": [],
}
VERSIONS = {"client_software_name": "test", "client_software_version": "1"}


async def answers(protocols: str) -> tuple[int, int, list[str]]:
    """The codes of a heartbeat and of a description, and the finalized features."""
    async with memory_broker(group_coordinator_rebalance_protocols=protocols) as memory:
        calls = GroupCalls(memory)
        await calls.find()
        beat = await calls.call(ApiKey.CONSUMER_GROUP_HEARTBEAT, 1, **JOIN)
        described = await calls.call(ApiKey.CONSUMER_GROUP_DESCRIBE, 1, group_ids=["g"])
        versions = await calls.call(ApiKey.API_VERSIONS, 4, **VERSIONS)
        return (
            beat.error_code,
            described.groups[0].error_code,
            [feature.name for feature in versions.finalized_features],
        )


async def test_what_is_turned_off_is_served_all_the_same() -> None:
    off = ErrorCode.UNSUPPORTED_VERSION
    assert await answers("classic") == (off, off, [])


async def test_both_protocols_are_served_by_default() -> None:
    assert await answers("classic,consumer") == (0, 0, ["group.version"])
