"""What a broker asks of the controller over the wire, on its inter-broker listener."""

from typing import TYPE_CHECKING

import trio

from penstock.broker.broker_config import BrokerConfig
from penstock.broker.errors import ApiError
from penstock.broker.image import ClusterImage
from penstock.broker.keys import Endpoint
from penstock.errors import PenstockError
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message
from penstock.runtime.network import Network

if TYPE_CHECKING:
    from penstock.client.connection import Connection

REQUEST_TIMEOUT_MS = 5_000


async def ask_controller(
    network: Network,
    config: BrokerConfig,
    image: ClusterImage,
    api_key: ApiKey,
    request: Message,
    *,
    at_least: int = 0,
) -> Message:
    """Send a request to whoever the image shows as the controller, on a connection of its own; returns the answer.

    Raises:
        ApiError: NOT_CONTROLLER: there is no controller now, or it has no inter-broker listener.
        PenstockError: it can't be reached, or does not answer; what was asked may have been done.

    Cancellation: the request may or may not have been sent.
    """
    from penstock.client.connection import ConnectionSettings, open_connection  # only in a cluster

    endpoint = _endpoint(config, image)
    settings = ConnectionSettings(
        client_id=f"penstock-broker-{config.node_id}",
        connect_timeout_ms=REQUEST_TIMEOUT_MS,
        request_timeout_ms=2 * REQUEST_TIMEOUT_MS,
    )
    answers: list[Message] = []
    failures: list[PenstockError] = []
    async with trio.open_nursery() as nursery:
        connection: Connection | None = None
        try:
            connection = await open_connection(nursery, network, endpoint.host, endpoint.port, settings)
            answers.append(await connection.request(api_key, request, at_least=at_least))
        except PenstockError as error:
            failures.append(error)  # raised behind the nursery, which would wrap it
        finally:
            if connection is not None:
                connection.close()
    for failure in failures:
        raise failure
    return answers[0]


def _endpoint(config: BrokerConfig, image: ClusterImage) -> Endpoint:
    controller = image.controller
    broker = None if controller is None else image.brokers.get(controller.node_id)
    endpoint = None if broker is None else broker.endpoints.get(config.inter_broker_listener_name)
    if endpoint is None:
        raise ApiError(ErrorCode.NOT_CONTROLLER, "There is no controller that can be asked now.")
    return endpoint
