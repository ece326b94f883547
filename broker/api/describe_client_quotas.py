"""DescribeClientQuotas, versions 0 and 1: the quotas that are set, as a filter asks for them (KIP-546).

Tells what was set for which entity, not what holds for a client: that follows from the order of precedence (`broker/quotas/entity.py`). A filter
that can't be understood is INVALID_REQUEST. Answered from this broker's image.
"""

from typing import TYPE_CHECKING

from penstock.broker.context import RequestContext
from penstock.broker.errors import ApiError
from penstock.broker.quotas.admin import component_of, find, parts_of
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

if TYPE_CHECKING:
    from penstock.broker.broker import Broker


async def handle(broker: "Broker", context: RequestContext, request: Message) -> Message:
    """Find the entities."""
    quotas = broker.image.quotas
    try:
        components = [
            component_of(wanted.entity_type, wanted.match_type, wanted.match) for wanted in request.components
        ]
        found = find(quotas, components, strict=request.strict)
    except ApiError as error:
        return Message(error_code=error.code, error_message=str(error), entries=None)
    entries = [
        Message(
            entity=[Message(entity_type=kind, entity_name=name) for kind, name in parts_of(entity)],
            values=[Message(key=key, value=value) for key, value in sorted(quotas[entity].items())],
        )
        for entity in found
    ]
    return Message(error_code=ErrorCode.NONE, error_message=None, entries=entries)
