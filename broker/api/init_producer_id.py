"""InitProducerId, versions 0 to 5: an id for an idempotent producer (KIP-98).

- Without a transactional id every request gets a new id in epoch 0, also one that brings its old id and epoch (version 3 and up): KIP-360's bump of
  the epoch is for transactional producers only, as in Kafka. One of the two without the other is INVALID_REQUEST.
- With a transactional id: TRANSACTIONAL_ID_AUTHORIZATION_FAILED, as there are no transactions yet. It is the one code upon which both Java's client and
  librdkafka stop at once with a fatal error that names the transactional id; the latter goes on asking for ever after UNSUPPORTED_VERSION and the
  like. An empty transactional id is INVALID_REQUEST.
"""

import logging
from typing import TYPE_CHECKING

from penstock.broker.context import RequestContext
from penstock.broker.errors import ApiError
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

if TYPE_CHECKING:
    from penstock.broker.broker import Broker

log = logging.getLogger(__name__)

NONE_GIVEN = -1
FIRST_EPOCH = 0


async def handle(broker: "Broker", context: RequestContext, request: Message) -> Message:
    """Give out an id, or say why not."""
    try:
        _check(context, request)
        producer_id = await broker.producer_ids.allocate()
    except ApiError as error:
        return Message(error_code=error.code, producer_id=NONE_GIVEN, producer_epoch=NONE_GIVEN)
    return Message(error_code=ErrorCode.NONE, producer_id=producer_id, producer_epoch=FIRST_EPOCH)


def _check(context: RequestContext, request: Message) -> None:
    if request.transactional_id is not None:
        if not request.transactional_id:
            raise ApiError(ErrorCode.INVALID_REQUEST)
        log.warning("%s: refused a transactional producer: there are no transactions yet", context.peer)
        raise ApiError(ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED)
    if (request.producer_id == NONE_GIVEN) != (request.producer_epoch == NONE_GIVEN):
        raise ApiError(ErrorCode.INVALID_REQUEST)
