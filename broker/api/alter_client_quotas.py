"""AlterClientQuotas, versions 0 and 1: sets and removes quotas of users and client ids (KIP-546).

Each entity stands or falls by itself, and the changes of one are made together or not at all; one that is named twice, and a quota that is
named twice in one, are INVALID_REQUEST. Any broker stores them; the answer goes out when they are in force on this one, the others follow as they
see it. Quotas by ip address, `controller_mutation_rate` and `connection_creation_rate` are refused: nothing would act on them.
"""

from collections import Counter
from typing import TYPE_CHECKING

from penstock.broker.config_resources import ALTER_TIMEOUT_MS, check_names_differ
from penstock.broker.context import RequestContext
from penstock.broker.errors import ApiError
from penstock.broker.quotas.admin import alter, entity_of
from penstock.broker.readiness import wait_until_seen
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

if TYPE_CHECKING:
    from penstock.broker.broker import Broker


async def handle(broker: "Broker", context: RequestContext, request: Message) -> Message:
    """Alter the quotas of each entity."""
    counts = Counter(_name(entry) for entry in request.entries)
    answers: list[Message] = []
    revision = 0
    for entry in request.entries:
        code, message = ErrorCode.NONE, None
        try:
            if counts[_name(entry)] > 1:
                raise ApiError(ErrorCode.INVALID_REQUEST, "The entity is named twice.")
            revision = max(revision, await _alter(broker, entry, request.validate_only))
        except ApiError as error:
            code, message = error.code, str(error)
        answers.append(Message(error_code=code, error_message=message, entity=entry.entity))
    await wait_until_seen(broker, revision, ALTER_TIMEOUT_MS)
    return Message(entries=answers)


async def _alter(broker: "Broker", entry: Message, validate_only: bool) -> int:
    check_names_differ(operation.key for operation in entry.ops)
    entity = entity_of([(part.entity_type, part.entity_name) for part in entry.entity])
    changes = {operation.key: None if operation.remove else operation.value for operation in entry.ops}
    return await alter(broker.store, entity, changes, validate_only=validate_only)


def _name(entry: Message) -> frozenset[tuple[str, str | None]]:
    return frozenset((part.entity_type, part.entity_name) for part in entry.entity)
