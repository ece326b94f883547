"""Whom a quota is set for, which quotas there are, and which one holds for a client. Pure.

Owns Kafka's entity model (user, client id, or both, each a name or the default), the names and bounds of the quotas, and the order of
precedence. Does not know where quotas are stored, nor what is measured against them. Source: KIP-55, KIP-546, Kafka's `ClientQuotaManager`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

USER = "user"
CLIENT_ID = "client-id"
DEFAULT = ""
"""The name that stands for "everybody who has none of their own". No entity has an empty name, so it can't be mistaken."""

PRODUCER_BYTE_RATE = "producer_byte_rate"
CONSUMER_BYTE_RATE = "consumer_byte_rate"
REQUEST_PERCENTAGE = "request_percentage"
QUOTA_NAMES = (PRODUCER_BYTE_RATE, CONSUMER_BYTE_RATE, REQUEST_PERCENTAGE)

NAME_LENGTH_MAX = 255
"""Of an entity. Of longer client ids the first so many characters count, so that what is remembered of clients is bounded."""


@dataclass(frozen=True, slots=True, order=True)
class QuotaEntity:
    """Whom quotas are for. None: whoever it is; `DEFAULT`: each who has none of their own. At least one of both is given."""

    user: str | None = None
    client_id: str | None = None

    def __str__(self) -> str:
        parts = [
            f"the default {kind}" if name == DEFAULT else f"{kind} {name!r}"
            for kind, name in ((USER, self.user), (CLIENT_ID, self.client_id))
            if name is not None
        ]
        return ", ".join(parts)


Quotas = Mapping[QuotaEntity, Mapping[str, float]]
"""All that are set: for each entity the values by quota name."""


@dataclass(frozen=True, slots=True)
class Limit:
    """The quota that holds for a client. `sharers` share it: every client for which it is the same has one bucket with the others."""

    name: str
    value: float
    entity: QuotaEntity
    sharers: QuotaEntity


def limit_of(quotas: Quotas, name: str, user: str, client_id: str) -> Limit | None:
    """Which quota of that name holds for a client; None where none does.

    A quota for a user is shared by all client ids of that user, one for a client id by all users of it; the default is not shared by
    those it holds for: each has its own.
    """
    for entity in _candidates(user, client_id):
        value = quotas.get(entity, _NOTHING).get(name)
        if value is not None:
            sharers = QuotaEntity(
                None if entity.user is None else user, None if entity.client_id is None else client_id
            )
            return Limit(name, value, entity, sharers)
    return None


def _candidates(user: str, client_id: str) -> Iterator[QuotaEntity]:
    """The entities that a client falls under, in Kafka's order of precedence."""
    for name in (user, DEFAULT):
        yield QuotaEntity(name, client_id)
        yield QuotaEntity(name, DEFAULT)
        yield QuotaEntity(name)
    yield QuotaEntity(None, client_id)
    yield QuotaEntity(None, DEFAULT)


_NOTHING: Mapping[str, float] = {}
