"""The admin calls about brokers and where replicas are: describing, moving, electing, unregistering.

Owns which broker is asked: the controller for changes, each broker for its folders, any for the rest. Knows neither the fields of messages
(`placement_messages`) nor what a good placement is.
"""

from collections.abc import Iterable, Mapping, Sequence

from penstock.client import placement_messages
from penstock.client.admin_base import AdminBase
from penstock.client.errors import BrokerError
from penstock.client.metadata import TopicPartition
from penstock.client.placement_values import ClusterDescription, LogDirectory, Reassignment
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message
from penstock.runtime.network import AddressError, ConnectionLost

_LOG_DIRS_VERSION_MIN = 1
_WRONG_CONTROLLER = frozenset({ErrorCode.NOT_CONTROLLER, ErrorCode.THROTTLING_QUOTA_EXCEEDED})


class PlacementCalls(AdminBase):
    """The part of an admin client that is about brokers and replicas."""

    async def describe_brokers(self) -> ClusterDescription:
        """The registered brokers, with racks, and who is the controller (DescribeCluster; Kafka 2.8 and later).

        Raises:
            UnsupportedByBroker: an older broker. `describe_cluster` goes by Metadata.
        """
        await self._metadata([])
        answer = await self._ask(
            await self._cluster.any_connection(),
            ApiKey.DESCRIBE_CLUSTER,
            placement_messages.describe_cluster_request(),
            is_repeatable=True,
        )
        return placement_messages.read_cluster(answer)

    async def describe_log_dirs(
        self, node_ids: Iterable[int], partitions: Iterable[TopicPartition] | None = None
    ) -> dict[int, list[LogDirectory] | BrokerError]:
        """The data folders of brokers with the size of each replica in bytes; of some partitions only, if they are named.

        A broker that can't be reached has BROKER_NOT_AVAILABLE in the place of its folders.
        """
        chosen = None if partitions is None else list(partitions)
        request = placement_messages.describe_log_dirs_request(chosen)

        async def send(entries: Mapping[int, None]) -> Mapping[int, list[LogDirectory] | BrokerError]:
            outcomes: dict[int, list[LogDirectory] | BrokerError] = {}
            for node_id in entries:
                try:
                    answer = await self._ask(
                        await self._node_or_any(node_id),
                        ApiKey.DESCRIBE_LOG_DIRS,
                        request,
                        at_least=_LOG_DIRS_VERSION_MIN,
                        is_repeatable=True,
                    )
                except BrokerError as error:
                    outcomes[node_id] = error
                except (AddressError, ConnectionLost) as error:
                    outcomes[node_id] = BrokerError(ErrorCode.BROKER_NOT_AVAILABLE, str(error))
                else:
                    outcomes[node_id] = placement_messages.read_log_dirs(answer, node_id)
            return outcomes

        return await self._settle(dict.fromkeys(node_ids), send, frozenset())

    async def alter_partition_reassignments(
        self, targets: Mapping[TopicPartition, Sequence[int] | None], *, may_change_factor: bool = True
    ) -> dict[TopicPartition, BrokerError | None]:
        """Begin to move partitions to other replicas, the preferred leader first; None cancels a move that is under way.

        On return the moves have begun, and go on by themselves: `list_partition_reassignments` tells how far they are. A target that is set
        anew takes the place of the last one. `may_change_factor` False: another number of replicas is refused (Kafka 4.1 and later).
        """

        async def send(
            entries: Mapping[TopicPartition, Sequence[int] | None],
        ) -> Mapping[TopicPartition, BrokerError | None]:
            answer = await self._ask(
                await self._cluster.controller(),
                ApiKey.ALTER_PARTITION_REASSIGNMENTS,
                placement_messages.alter_reassignments_request(entries, may_change_factor=may_change_factor),
                at_least=0 if may_change_factor else 1,
                is_repeatable=all(replicas is not None for replicas in entries.values()),
            )
            return placement_messages.read_altered_reassignments(answer)

        return await self._settle(targets, send, _WRONG_CONTROLLER)

    async def list_partition_reassignments(
        self, partitions: Iterable[TopicPartition] | None = None
    ) -> dict[TopicPartition, Reassignment]:
        """The moves that are under way, of all partitions or of those named. What is not moved is left out."""
        chosen = None if partitions is None else list(partitions)
        answer = await self._ask_controller(
            ApiKey.LIST_PARTITION_REASSIGNMENTS,
            placement_messages.list_reassignments_request(chosen),
            is_repeatable=True,
        )
        return placement_messages.read_reassignments(answer)

    async def elect_leaders(
        self, partitions: Iterable[TopicPartition] | None = None, *, is_unclean: bool = False
    ) -> dict[TopicPartition, BrokerError | None]:
        """Give leadership to the preferred (first) replicas, or, unclean, to any live replica of partitions without a leader.

        None in the outcome: the leader is as asked for, whether or not it was before. An unclean election may lose records that were acked. Without
        partitions: of all; those that need no election are left out of the outcome then.
        """
        chosen = None if partitions is None else list(partitions)
        answer = await self._ask_controller(
            ApiKey.ELECT_LEADERS,
            placement_messages.elect_leaders_request(chosen, is_unclean=is_unclean),
            is_repeatable=True,
            at_least=1 if is_unclean else 0,
        )
        return placement_messages.read_elections(answer)

    async def unregister_broker(self, node_id: int) -> None:
        """Remove what a broker that is stopped for good has left in the cluster's metadata.

        Raises:
            BrokerError: it is alive (INVALID_REQUEST), or nothing is known of it (BROKER_ID_NOT_REGISTERED).
            RequestOutcomeUnknown: the answer was lost.
        """
        await self._ask_controller(
            ApiKey.UNREGISTER_BROKER,
            Message(broker_id=node_id),
            is_repeatable=False,
            subject=f"broker {node_id}",
        )

    async def _ask_controller(
        self, api_key: ApiKey, request: Message, *, is_repeatable: bool, at_least: int = 0, subject: str = ""
    ) -> Message:
        """Ask the controller, and its successor if it was another meanwhile."""

        async def send(entries: Mapping[None, None]) -> Mapping[None, Message | BrokerError]:
            connection = await self._cluster.controller()
            try:
                return {
                    None: await self._ask(
                        connection,
                        api_key,
                        request,
                        is_repeatable=is_repeatable,
                        at_least=at_least,
                        subject=subject,
                    )
                }
            except BrokerError as error:
                return {None: error}

        outcome = (await self._settle({None: None}, send, _WRONG_CONTROLLER))[None]
        if isinstance(outcome, BrokerError):
            raise outcome
        return outcome


__all__ = ["PlacementCalls"]
