"""Alters quotas, by compare-and-swap on the key of each entity, and finds those that a filter asks for.

Owns what entities and values are allowed, and what a filter means. Knows no request formats; its caller waits until the image shows what was
stored. Source: KIP-546, Kafka's `ClientQuotaControlManager` and `ClientQuotasImage`.
"""

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from penstock.broker import keys
from penstock.broker.config_table import shown
from penstock.broker.errors import ApiError
from penstock.broker.quotas.entity import (
    CLIENT_ID,
    CONSUMER_BYTE_RATE,
    DEFAULT,
    NAME_LENGTH_MAX,
    PRODUCER_BYTE_RATE,
    QUOTA_NAMES,
    USER,
    QuotaEntity,
    Quotas,
)
from penstock.broker.transactions import Transaction, metadata_failure, transact
from penstock.protocol.errors import ErrorCode
from penstock.runtime.metadata import Compare, Delete, MetadataError, MetadataStore, Put

CONTENDED_ATTEMPT_COUNT_MAX = 20
_WHOLE_NUMBERS = (PRODUCER_BYTE_RATE, CONSUMER_BYTE_RATE)
_VALUE_MAX = 2.0**63
IP = "ip"
"""Kafka's third entity type, for connection rates, which are not there."""


class MatchType(enum.IntEnum):
    """How a filter names an entity; the numbers of the request."""

    EXACT = 0
    DEFAULT = 1
    ANY = 2


@dataclass(frozen=True, slots=True)
class Component:
    """What a filter wants of one type: that name (`DEFAULT` for the default), or, where it is None, any."""

    entity_type: str
    name: str | None


async def alter(
    store: MetadataStore,
    entity: QuotaEntity,
    changes: Mapping[str, float | None],
    *,
    validate_only: bool = False,
) -> int:
    """Set the quotas of an entity that `changes` names, or remove those whose value is None; the others stay.

    Returns the revision at which the image shows it, 0 where nothing had to be stored. Durable on return.

    Raises ApiError, with nothing changed unless its code is REQUEST_TIMED_OUT. Cancellation: all of it is stored, or nothing.
    """
    for name, value in changes.items():
        _check(name, value)
    key = keys.quota_key(entity)
    try:
        for _ in range(CONTENDED_ATTEMPT_COUNT_MAX):
            entry = await store.get(key)
            old = keys.decode_quotas(key, entry.value) if entry else {}
            wanted = {**old, **changes}
            new = {name: value for name, value in wanted.items() if value is not None}
            if validate_only or new == old:
                return 0
            compare = Compare(key, mod_revision=entry.mod_revision if entry else 0)
            write = Put(key, keys.encode_quotas(new)) if new else Delete(key)
            result = await transact(store, Transaction([compare], [write]))
            if result.succeeded:
                return result.revision
    except MetadataError as error:
        raise metadata_failure(error) from error
    raise ApiError(ErrorCode.REQUEST_TIMED_OUT, "Others keep changing the same quotas.")


def _check(name: str, value: float | None) -> None:
    if name not in QUOTA_NAMES:
        raise ApiError(
            ErrorCode.INVALID_REQUEST,
            f"There is no quota {shown(name)} in this version; there are {', '.join(QUOTA_NAMES)}.",
        )
    if value is None:
        return
    if not math.isfinite(value) or not 0 < value <= _VALUE_MAX:
        raise ApiError(ErrorCode.INVALID_REQUEST, f"{name}: {value:g} is no number above 0.")
    if name in _WHOLE_NUMBERS and value != int(value):
        raise ApiError(ErrorCode.INVALID_REQUEST, f"{name}: {value:g} is no whole number.")


def entity_of(parts: Sequence[tuple[str, str | None]]) -> QuotaEntity:
    """The entity that (type, name) pairs of a request mean, where a null name is the default. Raises ApiError."""
    if not parts:
        raise ApiError(ErrorCode.INVALID_REQUEST, "An entity of no type.")
    names: dict[str, str] = {}
    for entity_type, name in parts:
        _check_type(entity_type)
        if entity_type in names:
            raise ApiError(ErrorCode.INVALID_REQUEST, f"The entity names its {entity_type} twice.")
        if name == "":
            raise ApiError(ErrorCode.INVALID_REQUEST, f"An empty name for a {entity_type}.")
        if name is not None and len(name) > NAME_LENGTH_MAX:
            raise ApiError(
                ErrorCode.INVALID_REQUEST, f"A {entity_type} of more than {NAME_LENGTH_MAX} characters."
            )
        names[entity_type] = DEFAULT if name is None else name
    return QuotaEntity(names.get(USER), names.get(CLIENT_ID))


def parts_of(entity: QuotaEntity) -> list[tuple[str, str | None]]:
    """The other way round."""
    return [
        (entity_type, None if name == DEFAULT else name)
        for entity_type, name in ((USER, entity.user), (CLIENT_ID, entity.client_id))
        if name is not None
    ]


def component_of(entity_type: str, match_type: int, match: str | None) -> Component:
    """One component of a filter; no entity has an ip, so that one finds nothing. Raises ApiError."""
    if entity_type != IP:
        _check_type(entity_type)
    if match_type not in tuple(MatchType):
        raise ApiError(ErrorCode.INVALID_REQUEST, f"There is no match type {match_type}.")
    if (match_type == MatchType.EXACT) == (match is None):
        raise ApiError(ErrorCode.INVALID_REQUEST, "A name goes with an exact match, and with no other.")
    if match_type == MatchType.ANY:
        return Component(entity_type, None)
    if match == "":
        raise ApiError(ErrorCode.INVALID_REQUEST, f"An empty name for a {entity_type}.")
    return Component(entity_type, match or DEFAULT)


def find(quotas: Quotas, components: Sequence[Component], *, strict: bool) -> list[QuotaEntity]:
    """The entities that have all that is wanted and, if `strict`, nothing else, sorted. Raises ApiError."""
    types = [component.entity_type for component in components]
    if len(set(types)) != len(types):
        raise ApiError(ErrorCode.INVALID_REQUEST, "The filter names an entity type twice.")
    if IP in types and len(types) > 1:
        raise ApiError(ErrorCode.INVALID_REQUEST, "An entity with an ip has nothing else.")
    found: list[QuotaEntity] = []
    for entity in quotas:
        names = {USER: entity.user, CLIENT_ID: entity.client_id, IP: None}
        wanted = all(
            names[component.entity_type] is not None
            and component.name in (None, names[component.entity_type])
            for component in components
        )
        count = sum(name is not None for name in names.values())
        if wanted and (not strict or count == len(components)):
            found.append(entity)
    return sorted(found, key=lambda entity: (entity.user or "", entity.client_id or ""))


def _check_type(entity_type: str) -> None:
    if entity_type == IP:
        raise ApiError(ErrorCode.INVALID_REQUEST, "Quotas by ip address are not there in this version.")
    if entity_type not in (USER, CLIENT_ID):
        raise ApiError(ErrorCode.INVALID_REQUEST, f"There is no entity type {shown(entity_type)}.")
