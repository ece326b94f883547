"""DeleteGroups, versions 0 to 2: groups without members, of both kinds, with their offsets.

A group that is not there: GROUP_ID_NOT_FOUND; one with members: NON_EMPTY_GROUP. When the answer goes out the deletion is kept.
"""

from typing import TYPE_CHECKING

import trio

from penstock.broker.context import RequestContext
from penstock.broker.errors import ApiError
from penstock.broker.groups.classic_driver import is_empty
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

if TYPE_CHECKING:
    from penstock.broker.broker import Broker


async def handle(broker: "Broker", context: RequestContext, request: Message) -> Message:
    """Delete each of them."""
    results: list[Message] = []
    async with trio.open_nursery() as nursery:
        for group_id in dict.fromkeys(request.groups_names):
            result = Message(group_id=group_id, error_code=ErrorCode.COORDINATOR_NOT_AVAILABLE)
            results.append(result)
            nursery.start_soon(_delete, broker, result)
    return Message(results=results)


async def _delete(broker: "Broker", result: Message) -> None:
    try:
        shard = broker.groups.shard(result.group_id, allow_empty_id=True)
    except ApiError as error:
        result.error_code = error.code
        return
    group = shard.groups.get(result.group_id)
    if group is None:
        result.error_code = ErrorCode.GROUP_ID_NOT_FOUND
    elif not is_empty(group):
        result.error_code = ErrorCode.NON_EMPTY_GROUP
    else:
        finished = trio.Event()

        def done(code: ErrorCode) -> None:
            result.error_code = code
            finished.set()

        shard.delete(group, done)
        with trio.move_on_after(broker.config.offsets_commit_timeout_ms / 1000):
            await finished.wait()
