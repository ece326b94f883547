"""What a handler knows about the request besides its body."""

from dataclasses import dataclass

ANONYMOUS = "User:ANONYMOUS"


@dataclass(slots=True)
class RequestContext:
    """One request's envelope.

    `principal` is who asks, in Kafka's form `User:name`; everybody is anonymous until authentication comes. `peer` is `host:port`,
    `listener` the name of the listener that the connection came in by (Metadata answers with that listener's addresses).
    """

    api_key: int
    api_version: int
    correlation_id: int
    client_id: str | None
    principal: str
    peer: str
    listener: str
    throttle_time_ms: int = 0
    """What its response is to tell."""


def user_name(principal: str) -> str:
    """The name in a principal, which is how quotas and credentials call a user."""
    return principal.removeprefix("User:")
