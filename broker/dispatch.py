"""From a frame to its handler.

Owns which module handles which API, what happens to requests that can't be handled, and the log line for each of these. Produce and
Fetch are handled in place, on the frame's bytes; all others are decoded here, before anything is awaited, and their handlers see a
`Message` and return one. Handler modules are loaded on first use: a broker that is only produced to never loads the rest.
"""

import importlib
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from penstock.broker.api.api_versions import unsupported_version_response
from penstock.broker.api.fetch import fetch
from penstock.broker.api.produce import produce, produce_again
from penstock.broker.context import ANONYMOUS, RequestContext
from penstock.broker.pending_response import PendingResponse, encode_parts
from penstock.broker.replies import Parts
from penstock.protocol.api import SERVED, ApiKey
from penstock.protocol.codec import decode_request
from penstock.protocol.framing import RequestHeader, UnsupportedVersion, read_request_header
from penstock.protocol.message import Message

if TYPE_CHECKING:
    from penstock.broker.broker import Broker
    from penstock.broker.connection import Connection, Outcome

log = logging.getLogger(__name__)

Handler = Callable[["Broker", RequestContext, Message], Awaitable["Message | PendingResponse"]]

_MODULES = {
    int(ApiKey.API_VERSIONS): "api_versions",
    int(ApiKey.METADATA): "metadata",
    int(ApiKey.LIST_OFFSETS): "list_offsets",
    int(ApiKey.FIND_COORDINATOR): "find_coordinator",
    int(ApiKey.CREATE_TOPICS): "create_topics",
    int(ApiKey.DELETE_TOPICS): "delete_topics",
    int(ApiKey.CREATE_PARTITIONS): "create_partitions",
    int(ApiKey.DESCRIBE_CONFIGS): "describe_configs",
    int(ApiKey.ALTER_CONFIGS): "alter_configs",
    int(ApiKey.INCREMENTAL_ALTER_CONFIGS): "incremental_alter_configs",
    int(ApiKey.DELETE_RECORDS): "delete_records",
    int(ApiKey.DESCRIBE_CLUSTER): "describe_cluster",
    int(ApiKey.DESCRIBE_LOG_DIRS): "describe_log_dirs",
    int(ApiKey.CONSUMER_GROUP_HEARTBEAT): "consumer_group_heartbeat",
    int(ApiKey.CONSUMER_GROUP_DESCRIBE): "consumer_group_describe",
    int(ApiKey.DESCRIBE_TOPIC_PARTITIONS): "describe_topic_partitions",
    int(ApiKey.INIT_PRODUCER_ID): "init_producer_id",
    int(ApiKey.DESCRIBE_CLIENT_QUOTAS): "describe_client_quotas",
    int(ApiKey.ALTER_CLIENT_QUOTAS): "alter_client_quotas",
    int(ApiKey.DESCRIBE_USER_SCRAM_CREDENTIALS): "describe_user_scram_credentials",
    int(ApiKey.OFFSET_FOR_LEADER_EPOCH): "offset_for_leader_epoch",
    int(ApiKey.OFFSET_COMMIT): "offset_commit",
    int(ApiKey.OFFSET_FETCH): "offset_fetch",
    int(ApiKey.OFFSET_DELETE): "offset_delete",
    int(ApiKey.JOIN_GROUP): "join_group",
    int(ApiKey.SYNC_GROUP): "sync_group",
    int(ApiKey.HEARTBEAT): "heartbeat",
    int(ApiKey.LEAVE_GROUP): "leave_group",
    int(ApiKey.LIST_GROUPS): "list_groups",
    int(ApiKey.DESCRIBE_GROUPS): "describe_groups",
    int(ApiKey.DELETE_GROUPS): "delete_groups",
    int(ApiKey.ELECT_LEADERS): "elect_leaders",
    int(ApiKey.ALTER_PARTITION_REASSIGNMENTS): "alter_partition_reassignments",
    int(ApiKey.LIST_PARTITION_REASSIGNMENTS): "list_partition_reassignments",
    int(ApiKey.UNREGISTER_BROKER): "unregister_broker",
}
_PRODUCE = int(ApiKey.PRODUCE)
_FETCH = int(ApiKey.FETCH)

assert set(_MODULES) | {_PRODUCE, _FETCH} == set(SERVED), (
    "every API that is advertised has a handler, and no other"
)


class Dispatcher:
    """Calls the handler of each frame."""

    def __init__(self, broker: "Broker") -> None:
        self._broker = broker
        self._handlers: dict[int, Handler] = {}

    def __call__(self, connection: "Connection", frame: memoryview) -> "Outcome | Awaitable[Outcome]":
        """Begin one request. `frame` is not used after this returns.

        Raises ProtocolError where the only answer is to close the connection: unknown API or version, bytes that are no request.
        """
        known = connection.repeated_produce
        if known is not None and (records := known.records_in(frame)) is not None:
            if connection.repeat_misses:
                connection.repeat_misses -= 1
            self._broker.hot_bytes += len(frame)
            return produce_again(self._broker, known, frame, records, connection)
        try:
            header = read_request_header(frame)
        except UnsupportedVersion as error:
            if error.api_key != ApiKey.API_VERSIONS:
                raise
            log.info("%s: ApiVersions version %d: answered in version 0", connection.peer, error.api_version)
            return [unsupported_version_response(error.correlation_id)]
        if header.api_key == _PRODUCE:
            self._broker.hot_bytes += len(frame)
            return produce(self._broker, header, frame, connection)
        if header.api_key == _FETCH:
            return fetch(self._broker, header, frame, ANONYMOUS, connection.listener, reader=connection)
        request = decode_request(header.api_key, header.api_version, frame[header.body_position :])
        context = RequestContext(
            header.api_key,
            header.api_version,
            header.correlation_id,
            header.client_id,
            ANONYMOUS,
            connection.peer,
            connection.listener,
        )
        return self._handle(connection, header, context, request)

    async def _handle(
        self, connection: "Connection", header: RequestHeader, context: RequestContext, request: Message
    ) -> "Parts | PendingResponse":
        """The response to a decoded request, or the promise of it."""
        response = await self._handler(header.api_key)(self._broker, context, request)
        return encode_parts(context, response) if isinstance(response, Message) else response

    def _handler(self, api_key: int) -> Handler:
        handler = self._handlers.get(api_key)
        if handler is None:
            module = importlib.import_module(f"penstock.broker.api.{_MODULES[api_key]}")
            handler = self._handlers[api_key] = module.handle
        return handler
