"""The admin calls about quotas of clients: which are set, setting and removing them (KIP-546; Kafka 2.6 and later).

Owns whom a quota is for, as people write it, and the fields of the two messages. Does not know which quotas there are: brokers do.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from penstock.client.admin_base import AdminBase
from penstock.client.errors import BrokerError, broker_error
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode, ProtocolError
from penstock.protocol.message import Message

DEFAULT_ENTITY = ""
"""In the place of a name: each user or client id that has no quota of its own."""
_USER, _CLIENT_ID = "user", "client-id"
_WRONG_CONTROLLER = frozenset({ErrorCode.NOT_CONTROLLER, ErrorCode.THROTTLING_QUOTA_EXCEEDED})


@dataclass(frozen=True, slots=True)
class QuotaEntity:
    """Whom quotas are for: a user, a client id, or a client id of a user. "" (`DEFAULT_ENTITY`) stands for each who has none of their own."""

    user: str | None = None
    client_id: str | None = None

    def __str__(self) -> str:
        parts = [
            f"the default {kind}" if name == DEFAULT_ENTITY else f"{kind} {name}"
            for kind, name in ((_USER, self.user), (_CLIENT_ID, self.client_id))
            if name is not None
        ]
        return ", ".join(parts)


class QuotaCalls(AdminBase):
    """The part of an admin client that is about quotas."""

    async def describe_quotas(self) -> dict[QuotaEntity, dict[str, float]]:
        """The quotas that are set, by name, sorted by user and client id. Entities of other kinds (Kafka's ip) are left out.

        Raises:
            BrokerError: the broker refused.
        """
        await self._metadata([])
        answer = await self._ask(
            await self._cluster.any_connection(),
            ApiKey.DESCRIBE_CLIENT_QUOTAS,
            Message(components=[], strict=False),
            is_repeatable=True,
        )
        found: dict[QuotaEntity, dict[str, float]] = {}
        for entry in answer.entries or ():
            entity = _read_entity(entry.entity)
            if entity is not None:
                found[entity] = {each.key: each.value for each in entry.values}
        return dict(sorted(found.items(), key=lambda item: (item[0].user or "", item[0].client_id or "")))

    async def alter_quotas(
        self, changes: Mapping[QuotaEntity, Mapping[str, float | None]], *, validate_only: bool = False
    ) -> dict[QuotaEntity, BrokerError | None]:
        """Set quotas by name, or remove those whose value is None; others of the entity stay as they are.

        The changes of one entity are made together or not at all. `validate_only`: check only, change nothing.
        """

        async def send(
            entries: Mapping[QuotaEntity, Mapping[str, float | None]],
        ) -> Mapping[QuotaEntity, BrokerError | None]:
            answer = await self._ask(
                await self._cluster.controller(),
                ApiKey.ALTER_CLIENT_QUOTAS,
                Message(
                    entries=[_entry(entity, quotas) for entity, quotas in entries.items()],
                    validate_only=validate_only,
                ),
                is_repeatable=True,
            )
            outcomes: dict[QuotaEntity, BrokerError | None] = {}
            for entry in answer.entries:
                entity = _read_entity(entry.entity)
                if entity is None or entity not in entries:
                    raise ProtocolError(f"an answer about {entity}, which was not asked for")
                outcomes[entity] = (
                    broker_error(entry.error_code, entry.error_message, subject=str(entity))
                    if entry.error_code
                    else None
                )
            return outcomes

        return await self._settle(changes, send, _WRONG_CONTROLLER)


def _entry(entity: QuotaEntity, quotas: Mapping[str, float | None]) -> Message:
    return Message(
        entity=[
            Message(entity_type=kind, entity_name=None if name == DEFAULT_ENTITY else name)
            for kind, name in ((_USER, entity.user), (_CLIENT_ID, entity.client_id))
            if name is not None
        ],
        ops=[
            Message(key=name, value=0.0 if value is None else value, remove=value is None)
            for name, value in quotas.items()
        ],
    )


def _read_entity(parts: list[Message]) -> QuotaEntity | None:
    names = {
        part.entity_type: DEFAULT_ENTITY if part.entity_name is None else part.entity_name for part in parts
    }
    if not names or not names.keys() <= {_USER, _CLIENT_ID}:
        return None
    return QuotaEntity(names.get(_USER), names.get(_CLIENT_ID))


__all__ = ["DEFAULT_ENTITY", "QuotaCalls", "QuotaEntity"]
