"""ApiVersions, versions 0 to 4 (KIP-511).

The response's header is always version 0, and a request of a version that we don't know is answered in version 0 with error 35 and
the one range that the client needs, that of ApiVersions itself: its body is never looked at. Features (KIP-584) are those that clients ask for.
"""

import re
from typing import TYPE_CHECKING

from penstock.broker.context import RequestContext
from penstock.protocol.api import SERVED, ApiKey
from penstock.protocol.codec import encode_response
from penstock.protocol.errors import ErrorCode
from penstock.protocol.framing import response_prefix
from penstock.protocol.message import Message

if TYPE_CHECKING:
    from penstock.broker.broker import Broker

_KEY = int(ApiKey.API_VERSIONS)
_SOFTWARE = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?")
FIRST_VERSION_WITH_SOFTWARE = 3
FIRST_VERSION_WITH_LEVEL_ZERO = 4
"""Java clients that ask in version 3 fail over a supported feature whose lowest level is 0, so it is not told there, as in Kafka."""

GROUP_VERSION = "group.version"
"""The feature that clients and tools look for: level 1 is the consumer protocol (KIP-848), 0 its absence."""
GROUP_VERSION_MAX = 1
FEATURES_EPOCH = 0
"""No feature is ever changed while the cluster runs."""


async def handle(broker: "Broker", context: RequestContext, request: Message) -> Message:
    """List what is served."""
    if context.api_version >= FIRST_VERSION_WITH_SOFTWARE and not (
        _SOFTWARE.fullmatch(request.client_software_name)
        and _SOFTWARE.fullmatch(request.client_software_version)
    ):
        return Message(error_code=ErrorCode.INVALID_REQUEST, api_keys=[])
    supported = Message(name=GROUP_VERSION, min_version=0, max_version=GROUP_VERSION_MAX)
    finalized = Message(
        name=GROUP_VERSION, min_version_level=GROUP_VERSION_MAX, max_version_level=GROUP_VERSION_MAX
    )
    return Message(
        error_code=ErrorCode.NONE,
        api_keys=[_range(key) for key in SERVED],
        supported_features=[supported] if context.api_version >= FIRST_VERSION_WITH_LEVEL_ZERO else [],
        finalized_features_epoch=FEATURES_EPOCH,
        finalized_features=[finalized] if broker.config.serves_consumer_protocol else [],
    )


def unsupported_version_response(correlation_id: int) -> bytes:
    """The whole response to a version that is not served."""
    body = encode_response(
        _KEY, 0, Message(error_code=ErrorCode.UNSUPPORTED_VERSION, api_keys=[_range(_KEY)])
    )
    return response_prefix(_KEY, 0, correlation_id, len(body)) + body


def _range(key: int) -> Message:
    versions = SERVED[key].versions
    return Message(api_key=key, min_version=versions.start, max_version=versions.stop - 1)
