"""UnregisterBroker, version 0: removes what a dead broker has left (KIP-185's successor in KRaft).

A registration goes with its lease, so there is none to remove. What is removed is the dead broker's part in ISRs and among the eligible leader replicas,
and its configs; where it is a replica it stays one until the partition is reassigned. A live broker is refused (INVALID_REQUEST), and one that
nothing is known of is BROKER_ID_NOT_REGISTERED. Clients send this to any broker: one that is not the controller asks it.
"""

from typing import TYPE_CHECKING

from penstock.broker.context import RequestContext
from penstock.broker.controller.partition_admin import PartitionAdmin
from penstock.broker.controller_requests import ask_controller
from penstock.broker.errors import ApiError
from penstock.broker.readiness import wait_until_seen
from penstock.errors import PenstockError
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

if TYPE_CHECKING:
    from penstock.broker.broker import Broker

PATIENCE_MS = 5_000


async def handle(broker: "Broker", context: RequestContext, request: Message) -> Message:
    """Remove it, and wait until that is seen."""
    try:
        controller = broker.image.controller
        if controller is not None and controller.node_id != broker.config.node_id:
            network = broker.environment.network
            return await ask_controller(
                network,
                broker.config,
                broker.image,
                ApiKey.UNREGISTER_BROKER,
                Message(broker_id=request.broker_id),
            )
        admin = PartitionAdmin(broker.store, broker.config, broker.watch)
        await wait_until_seen(broker, await admin.unregister(request.broker_id), PATIENCE_MS)
    except ApiError as error:
        return Message(error_code=error.code, error_message=str(error))
    except PenstockError as error:
        return Message(
            error_code=ErrorCode.REQUEST_TIMED_OUT, error_message=f"the controller can't be asked: {error}"
        )
    return Message(error_code=ErrorCode.NONE, error_message=None)
