"""DescribeCluster, versions 0 to 2: cluster id, controller and brokers, through the listener that the request came in by (KIP-700).

Only brokers are endpoints here: asking for controllers (version 1, KIP-919) is MISMATCHED_ENDPOINT_TYPE. A broker whose lease has ended is
not registered, so it is not told of. One that is starting is told of only where fenced brokers are asked for (version 2); one that is about to stop
always, since it answers.
"""

from typing import TYPE_CHECKING

from penstock.broker import authorized_operations
from penstock.broker.cluster_view import ClusterView
from penstock.broker.context import RequestContext
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

if TYPE_CHECKING:
    from penstock.broker.broker import Broker

BROKERS = 1
CONTROLLERS = 2


async def handle(broker: "Broker", context: RequestContext, request: Message) -> Message:
    """Describe the cluster as of this broker's image."""
    if request.endpoint_type != BROKERS:
        known = request.endpoint_type == CONTROLLERS
        code = ErrorCode.MISMATCHED_ENDPOINT_TYPE if known else ErrorCode.UNSUPPORTED_ENDPOINT_TYPE
        message = "This is a broker's listener; ask it for brokers."
        return Message(
            error_code=code, error_message=message, endpoint_type=BROKERS, cluster_id="", brokers=[]
        )
    view = ClusterView(broker.image, context.listener, includes_starting=request.include_fenced_brokers)
    operations = authorized_operations.NOT_ASKED
    if request.include_cluster_authorized_operations:
        operations = authorized_operations.ON_CLUSTER
    return Message(
        error_code=ErrorCode.NONE,
        error_message=None,
        endpoint_type=BROKERS,
        cluster_id=broker.cluster_id,
        controller_id=view.controller_id,
        brokers=[
            Message(
                broker_id=b.node_id,
                host=b.endpoint.host,
                port=b.endpoint.port,
                rack=b.rack,
                is_fenced=b.is_fenced,
            )
            for b in view.brokers
        ],
        cluster_authorized_operations=operations,
    )
