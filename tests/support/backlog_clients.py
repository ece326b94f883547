"""A client that produces to a bounded topic and commits for its groups, by raw requests on a connection of its own."""

from typing import Any

from tests.support.batches import encode_batch

from penstock.client.connection import Connection
from penstock.protocol.api import ApiKey
from penstock.protocol.codec import decode_response, encode_request
from penstock.protocol.message import Message

PRODUCE_VERSION = 9


class Client:
    """See the module."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def commit(self, offset: int, *, group: str = "g", topic: str = "orders") -> int:
        """Commit an offset of partition 0; the code."""
        partitions = [Message(partition_index=0, committed_offset=offset)]
        topics = [Message(name=topic, partitions=partitions)]
        request = Message(group_id=group, topics=topics)
        answer = await self.connection.request(ApiKey.OFFSET_COMMIT, request, at_most=8)
        return int(answer.topics[0].partitions[0].error_code)

    async def find_coordinator(self, group: str = "g") -> None:
        """Have the offsets topic made, as every client does first."""
        await self.connection.request(ApiKey.FIND_COORDINATOR, Message(coordinator_keys=[group]), at_most=4)

    def begin(self, count: int, *, topic: str = "orders", size: int = 10, timeout_ms: int = 20_000) -> Any:
        """Send a batch to partition 0, and wait for nothing."""
        records = encode_batch([bytes(size)] * count, timestamps_ms=[0] * count)
        topics = [Message(name=topic, partition_data=[Message(index=0, records=records)])]
        request = Message(acks=-1, timeout_ms=timeout_ms, topic_data=topics)
        body = encode_request(ApiKey.PRODUCE, PRODUCE_VERSION, request)
        return self.connection.begin(ApiKey.PRODUCE, PRODUCE_VERSION, [body])

    async def end(self, pending: Any) -> tuple[int, int]:
        """The code of what was begun, and the throttle time that was told."""
        body = await self.connection.finish(pending, ApiKey.PRODUCE, PRODUCE_VERSION)
        answer = decode_response(ApiKey.PRODUCE, PRODUCE_VERSION, body)
        return answer.responses[0].partition_responses[0].error_code, answer.throttle_time_ms

    async def produce(self, count: int, **more: Any) -> tuple[int, int]:
        """Send a batch, and wait."""
        return await self.end(self.begin(count, **more))
