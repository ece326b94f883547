"""What the config APIs call a resource, and what AlterConfigs and IncrementalAlterConfigs have in common.

Owns the resource types, the meaning of their names, and the loop over a request's resources. Which change is asked for is the
handler's business. Source: KIP-133, KIP-226, Kafka's `ConfigResource`, `ConfigAdminManager`.
"""

import enum
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from penstock.broker.config_table import shown
from penstock.broker.errors import ApiError
from penstock.broker.readiness import wait_until_seen
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

if TYPE_CHECKING:
    from penstock.broker.broker import Broker

ALTER_TIMEOUT_MS = 5_000
"""How long an alteration waits for this broker to see it; the requests carry no timeout."""


class ResourceType(enum.IntEnum):
    """Kafka's `ConfigResource.Type`."""

    UNKNOWN = 0
    TOPIC = 2
    BROKER = 4
    BROKER_LOGGER = 8
    CLIENT_METRICS = 16
    GROUP = 32


def unsupported(resource_type: int) -> ApiError:
    """The refusal of a resource that has no configs here."""
    if resource_type == ResourceType.BROKER_LOGGER:
        return ApiError(
            ErrorCode.INVALID_REQUEST, "Log levels are set when the broker starts, not by this API."
        )
    name = resource_type
    if resource_type in (ResourceType.CLIENT_METRICS, ResourceType.GROUP):
        return ApiError(
            ErrorCode.INVALID_REQUEST, f"{ResourceType(name).name} resources have no configs in this version."
        )
    return ApiError(ErrorCode.INVALID_REQUEST, f"There is no resource type {resource_type}.")


def parse_broker_name(name: str) -> int | None:
    """The node id in a broker resource's name; None for the empty name, which stands for all brokers. Raises ApiError."""
    if not name:
        return None
    if not (name.isascii() and name.isdecimal() and len(name) <= 10):
        raise ApiError(ErrorCode.INVALID_REQUEST, f"{shown(name)} is no broker id.")
    return int(name)


def check_names_differ(names: Iterable[str]) -> None:
    """Raise ApiError if a config is named twice in one resource."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ApiError(ErrorCode.INVALID_REQUEST, f"{shown(twice[0])} is named twice.")


async def alter_each(
    broker: "Broker",
    resources: Sequence[Message],
    alter: Callable[[Message], Awaitable[int]],
) -> list[Message]:
    """Call `alter` for every resource that is named once; answers in the order of the request, once the changes are in force here."""
    counts = Counter((resource.resource_type, resource.resource_name) for resource in resources)
    responses: list[Message] = []
    revision = 0
    for resource in resources:
        code, message = ErrorCode.NONE, None
        try:
            if counts[resource.resource_type, resource.resource_name] > 1:
                raise ApiError(ErrorCode.INVALID_REQUEST, "The resource is named twice.")
            revision = max(revision, await alter(resource))
        except ApiError as error:
            code, message = error.code, str(error)
        responses.append(
            Message(
                error_code=code,
                error_message=message,
                resource_type=resource.resource_type,
                resource_name=resource.resource_name,
            )
        )
    await wait_until_seen(broker, revision, ALTER_TIMEOUT_MS)
    return responses
