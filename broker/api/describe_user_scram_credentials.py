"""DescribeUserScramCredentials, version 0: nobody has any, since there is no authentication yet (KIP-554).

It is served because `kafka-configs.sh --describe --entity-type users` asks for quotas and credentials together and fails without an answer. A user who is
asked for is RESOURCE_NOT_FOUND, as in Kafka for one without credentials; one who is named twice is DUPLICATE_RESOURCE.
"""

from collections import Counter
from typing import TYPE_CHECKING

from penstock.broker.config_table import shown
from penstock.broker.context import RequestContext
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

if TYPE_CHECKING:
    from penstock.broker.broker import Broker


async def handle(broker: "Broker", context: RequestContext, request: Message) -> Message:
    """Say of each user that there is nothing."""
    users: list[Message] | None = request.users
    names: list[str] = [user.name for user in users or ()]
    counts = Counter(names)
    results = [
        Message(
            user=name,
            error_code=ErrorCode.RESOURCE_NOT_FOUND if count == 1 else ErrorCode.DUPLICATE_RESOURCE,
            error_message=(
                f"There are no credentials of user {shown(name)}."
                if count == 1
                else f"User {shown(name)} is named twice."
            ),
            credential_infos=[],
        )
        for name, count in counts.items()
    ]
    return Message(error_code=ErrorCode.NONE, error_message=None, results=results)
