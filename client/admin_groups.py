"""The admin calls about groups and their committed offsets.

Owns which broker is asked: every broker for a list, the coordinator of each group for the rest. Knows neither the fields of messages
(`group_messages`) nor how a coordinator is found.

A group of the KIP-848 protocol and a classic one are described by calls of their own; here both are one. Offsets are read by topic name, so
by version 9 at most: from 10 on topics go by their ids, and a deleted topic's offsets could not be named.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from penstock.client import group_messages
from penstock.client.admin_base import AdminBase
from penstock.client.backoff import retry
from penstock.client.connection import Connection
from penstock.client.coordinator import COORDINATOR_LOST
from penstock.client.errors import BrokerError, UnknownGroup
from penstock.client.group_values import (
    GroupDescription,
    GroupKind,
    GroupListing,
    GroupState,
    OffsetAndMetadata,
)
from penstock.client.metadata import TopicPartition
from penstock.errors import PenstockError
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.runtime.network import AddressError, ConnectionLost

R = TypeVar("R")

_LIST_GROUPS_VERSION_WITH_STATES = 4  # KIP-518
_LIST_GROUPS_VERSION_WITH_KINDS = 5  # KIP-848
_OFFSET_FETCH_VERSION_WITH_ALL_TOPICS = 2
_OFFSET_FETCH_VERSION_WITH_GROUPS = 8  # KIP-709
_VERSION_WITH_TOPIC_NAMES_MAX = 9

_WRONG_COORDINATOR = COORDINATOR_LOST | {
    ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
    ErrorCode.BROKER_NOT_AVAILABLE,  # of the pool: a broker has just come or gone
}


class GroupCalls(AdminBase):
    """The part of an admin client that is about groups."""

    async def list_groups(
        self, *, states: Iterable[GroupState] = (), kinds: Iterable[GroupKind] = ()
    ) -> list[GroupListing]:
        """All groups that the principal may see, of all brokers, sorted by id; with filters, those of these states and kinds.

        Raises:
            BrokerError: a broker could not tell (it is still loading, after all tries).
            UnsupportedByBroker: filters by state need Kafka 2.6, by kind 3.8.
        """
        wanted_states, wanted_kinds = list(states), list(kinds)
        at_least = _LIST_GROUPS_VERSION_WITH_STATES if wanted_states else 0
        at_least = _LIST_GROUPS_VERSION_WITH_KINDS if wanted_kinds else at_least

        async def attempt() -> dict[str, GroupListing]:
            metadata = await self._cluster.refresh([])
            found: dict[str, GroupListing] = {}
            for node_id in metadata.nodes:
                answer = await self._ask(
                    await self._cluster.connection(node_id),
                    ApiKey.LIST_GROUPS,
                    group_messages.list_groups_request(wanted_states, wanted_kinds),
                    at_least=at_least,
                    is_repeatable=True,
                )
                # A group moves with its partition: two brokers may name it, and the one that lists it as dead no longer has it.
                for listing in group_messages.read_groups(answer):
                    if listing.state != GroupState.DEAD or listing.group_id not in found:
                        found[listing.group_id] = listing
            return found

        found = await self._until_coordinated(attempt)
        return [found[group_id] for group_id in sorted(found)]

    async def describe_groups(self, group_ids: Iterable[str]) -> dict[str, GroupDescription | BrokerError]:
        """State, assignor and members of each group, with the partitions that each member has. UnknownGroup for one that is not there."""

        async def send(
            connection: Connection, wanted: Sequence[str]
        ) -> Mapping[str, GroupDescription | BrokerError]:
            outcomes: dict[str, GroupDescription | BrokerError] = {}
            if ApiKey.CONSUMER_GROUP_DESCRIBE in connection.api_versions:
                request = group_messages.describe_consumer_groups_request(wanted)
                answer = await self._ask(
                    connection, ApiKey.CONSUMER_GROUP_DESCRIBE, request, is_repeatable=True
                )
                outcomes |= group_messages.read_consumer_groups(answer, connection.peer)
            classic = [name for name in wanted if _may_be_classic(outcomes.get(name))]
            if classic:
                request = group_messages.describe_groups_request(classic)
                answer = await self._ask(connection, ApiKey.DESCRIBE_GROUPS, request, is_repeatable=True)
                outcomes |= group_messages.read_classic_groups(answer, connection.peer)
            return outcomes

        return await self._settle_by_coordinator(group_ids, send)

    async def delete_groups(self, group_ids: Iterable[str]) -> dict[str, BrokerError | None]:
        """Delete groups with their committed offsets. None: the group is gone. GroupNotEmpty for one that has members.

        Raises:
            RequestOutcomeUnknown: the answer was lost.
        """

        async def send(connection: Connection, wanted: Sequence[str]) -> Mapping[str, BrokerError | None]:
            request = group_messages.delete_groups_request(wanted)
            answer = await self._ask(connection, ApiKey.DELETE_GROUPS, request, is_repeatable=False)
            return group_messages.read_deleted_groups(answer)

        return await self._settle_by_coordinator(group_ids, send)

    async def list_group_offsets(
        self, group_id: str, partitions: Iterable[TopicPartition] | None = None
    ) -> dict[TopicPartition, OffsetAndMetadata | BrokerError | None]:
        """What a group has committed for these partitions; None where it has committed nothing. Without `partitions`: all that it has.

        A group that is not there has committed nothing.

        Raises:
            BrokerError: about the group as a whole.
        """
        wanted = None if partitions is None else list(dict.fromkeys(partitions))
        if wanted == []:
            return {}

        async def send(
            connection: Connection,
        ) -> dict[TopicPartition, OffsetAndMetadata | BrokerError | None]:
            version = connection.version(
                ApiKey.OFFSET_FETCH,
                at_least=_OFFSET_FETCH_VERSION_WITH_ALL_TOPICS if wanted is None else 0,
                at_most=_VERSION_WITH_TOPIC_NAMES_MAX,
            )
            many = version >= _OFFSET_FETCH_VERSION_WITH_GROUPS
            answer = await self._ask(
                connection,
                ApiKey.OFFSET_FETCH,
                group_messages.offset_fetch_request(group_id, wanted),
                at_least=version,
                at_most=version,
                is_repeatable=True,
            )
            return group_messages.read_committed(answer.groups[0] if many else answer, group_id)

        found = await self._ask_coordinator(group_id, send)
        return found if wanted is None else {key: found.get(key) for key in wanted}

    async def alter_group_offsets(
        self, group_id: str, offsets: Mapping[TopicPartition, int | OffsetAndMetadata]
    ) -> dict[TopicPartition, BrokerError | None]:
        """Commit offsets for a group that has no members (it is made if it is not there). None: the offset is stored.

        With members the broker refuses with UNKNOWN_MEMBER_ID. Done twice where the connection is lost, since it comes to the same.
        """
        if not offsets:
            return {}

        async def send(connection: Connection) -> dict[TopicPartition, BrokerError | None]:
            answer = await self._ask(
                connection,
                ApiKey.OFFSET_COMMIT,
                group_messages.offset_commit_request(group_id, offsets),
                at_most=_VERSION_WITH_TOPIC_NAMES_MAX,
                is_repeatable=True,
            )
            return group_messages.read_partition_errors(answer)

        return await self._ask_coordinator(group_id, send)

    async def delete_group_offsets(
        self, group_id: str, partitions: Iterable[TopicPartition]
    ) -> dict[TopicPartition, BrokerError | None]:
        """Forget what a group has committed for these partitions. GroupNotEmpty for topics that its members subscribe to.

        Raises:
            BrokerError: about the group as a whole, UnknownGroup among them.
            RequestOutcomeUnknown: the answer was lost.
        """
        wanted = list(dict.fromkeys(partitions))
        if not wanted:
            return {}

        async def send(connection: Connection) -> dict[TopicPartition, BrokerError | None]:
            request = group_messages.offset_delete_request(group_id, wanted)
            answer = await self._ask(
                connection, ApiKey.OFFSET_DELETE, request, is_repeatable=False, subject=f"group {group_id}"
            )
            return group_messages.read_partition_errors(answer)

        return await self._ask_coordinator(group_id, send)

    async def _settle_by_coordinator(
        self,
        group_ids: Iterable[str],
        send: Callable[[Connection, Sequence[str]], Awaitable[Mapping[str, R | BrokerError]]],
    ) -> dict[str, R | BrokerError]:
        async def send_to_coordinators(left: Mapping[str, None]) -> Mapping[str, R | BrokerError]:
            outcomes: dict[str, R | BrokerError] = {}
            by_connection: dict[Connection, list[str]] = {}
            for group_id in left:
                try:
                    connection = await self._coordinators.connection_once(group_id)
                except BrokerError as error:
                    outcomes[group_id] = error
                else:
                    by_connection.setdefault(connection, []).append(group_id)
            for connection, wanted in by_connection.items():
                outcomes |= await send(connection, wanted)
            for group_id, outcome in outcomes.items():
                if isinstance(outcome, BrokerError) and outcome.code in COORDINATOR_LOST:
                    self._coordinators.forget(group_id)
            return outcomes

        wanted = dict.fromkeys(group_ids)
        outcomes = await self._settle(wanted, send_to_coordinators, _WRONG_COORDINATOR)
        return {group_id: outcomes[group_id] for group_id in wanted if group_id in outcomes}

    async def _ask_coordinator(
        self,
        group_id: str,
        send: Callable[[Connection], Awaitable[dict[TopicPartition, R | BrokerError]]],
    ) -> dict[TopicPartition, R | BrokerError]:
        async def attempt() -> dict[TopicPartition, R | BrokerError]:
            try:
                outcomes = await send(await self._coordinators.connection_once(group_id))
                for outcome in outcomes.values():  # brokers tell of a wrong coordinator in every entry
                    if isinstance(outcome, BrokerError) and outcome.code in _WRONG_COORDINATOR:
                        raise outcome
            except BrokerError as error:
                if error.code in COORDINATOR_LOST:
                    self._coordinators.forget(group_id)
                raise
            return outcomes

        return await self._until_coordinated(attempt)

    async def _until_coordinated(self, attempt: Callable[[], Awaitable[R]]) -> R:
        def is_worth_retrying(error: PenstockError) -> bool:
            if isinstance(error, BrokerError):
                return error.code in _WRONG_COORDINATOR
            return isinstance(error, AddressError | ConnectionLost)

        return await retry(
            attempt,
            is_worth_retrying=is_worth_retrying,
            policy=self._policy,
            random=self._environment.random,
        )


def _may_be_classic(outcome: GroupDescription | BrokerError | None) -> bool:
    return outcome is None or isinstance(outcome, UnknownGroup)


__all__ = ["GroupCalls"]
