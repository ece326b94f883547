"""Penstock: a persistent, partitioned message queue that speaks the Kafka wire protocol.

This module loads nothing by itself: `import penstock.protocol` stays light, and public names are resolved on first
use (PEP 562), each from the module that holds it. Type checkers read the imports, the interpreter reads `_HOMES`; a test holds
that both tell the same.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from penstock.broker.errors import ConfigError as ConfigError
    from penstock.client.admin import Admin as Admin
    from penstock.client.admin_quotas import QuotaEntity as QuotaEntity
    from penstock.client.admin_values import ConfigChange as ConfigChange
    from penstock.client.admin_values import ConfigEntry as ConfigEntry
    from penstock.client.admin_values import ConfigOperation as ConfigOperation
    from penstock.client.admin_values import ConfigResource as ConfigResource
    from penstock.client.admin_values import CreatedTopic as CreatedTopic
    from penstock.client.admin_values import FoundOffset as FoundOffset
    from penstock.client.admin_values import NewTopic as NewTopic
    from penstock.client.admin_values import ResourceKind as ResourceKind
    from penstock.client.errors import AuthorizationFailed as AuthorizationFailed
    from penstock.client.errors import BacklogFull as BacklogFull
    from penstock.client.errors import BootstrapFailed as BootstrapFailed
    from penstock.client.errors import BrokerError as BrokerError
    from penstock.client.errors import BufferFull as BufferFull
    from penstock.client.errors import CommitFailed as CommitFailed
    from penstock.client.errors import DeliveryFailed as DeliveryFailed
    from penstock.client.errors import DeliveryTimedOut as DeliveryTimedOut
    from penstock.client.errors import GroupFenced as GroupFenced
    from penstock.client.errors import GroupNotEmpty as GroupNotEmpty
    from penstock.client.errors import OffsetOutOfRange as OffsetOutOfRange
    from penstock.client.errors import ProducerFenced as ProducerFenced
    from penstock.client.errors import RebalanceInProgress as RebalanceInProgress
    from penstock.client.errors import RequestOutcomeUnknown as RequestOutcomeUnknown
    from penstock.client.errors import TopicExists as TopicExists
    from penstock.client.errors import UnknownGroup as UnknownGroup
    from penstock.client.errors import UnknownTopic as UnknownTopic
    from penstock.client.errors import UnsupportedByBroker as UnsupportedByBroker
    from penstock.client.group_values import GroupDescription as GroupDescription
    from penstock.client.group_values import GroupKind as GroupKind
    from penstock.client.group_values import GroupListing as GroupListing
    from penstock.client.group_values import GroupMember as GroupMember
    from penstock.client.group_values import GroupState as GroupState
    from penstock.client.group_values import OffsetAndMetadata as OffsetAndMetadata
    from penstock.client.metadata import ClusterMetadata as ClusterMetadata
    from penstock.client.metadata import InvalidAddress as InvalidAddress
    from penstock.client.metadata import TopicMetadata as TopicMetadata
    from penstock.client.metadata import TopicPartition as TopicPartition
    from penstock.consumer.batch import ConsumerBatch as ConsumerBatch
    from penstock.consumer.consumer import Consumer as Consumer
    from penstock.consumer.dead_letters import RecordFailure as RecordFailure
    from penstock.consumer.errors import CorruptRecords as CorruptRecords
    from penstock.consumer.errors import LogTruncated as LogTruncated
    from penstock.consumer.errors import NoInitialOffset as NoInitialOffset
    from penstock.consumer.errors import PartitionError as PartitionError
    from penstock.consumer.errors import PositionOutOfRange as PositionOutOfRange
    from penstock.consumer.record import ConsumerRecord as ConsumerRecord
    from penstock.consumer.redrive import Attempt as Attempt
    from penstock.consumer.redrive import Redrive as Redrive
    from penstock.consumer.redrive import RedriveStatistics as RedriveStatistics
    from penstock.errors import PenstockError as PenstockError
    from penstock.producer.batch import Delivery as Delivery
    from penstock.producer.batch import RecordMetadata as RecordMetadata
    from penstock.producer.many import OffsetRange as OffsetRange
    from penstock.producer.many import SendManyResult as SendManyResult
    from penstock.producer.producer import OutgoingRecord as OutgoingRecord
    from penstock.producer.producer import Producer as Producer
    from penstock.producer.producer import RecordTooLarge as RecordTooLarge
    from penstock.protocol.errors import ErrorCode as ErrorCode
    from penstock.runtime.network import AddressError as AddressError
    from penstock.runtime.network import ConnectionLost as ConnectionLost
    from penstock.testing.broker import Broker as Broker
    from penstock.testing.broker_process import BrokerEnded as BrokerEnded
    from penstock.testing.broker_process import BrokerProcess as BrokerProcess
    from penstock.testing.broker_process import BrokerStartFailed as BrokerStartFailed
else:
    _HOMES = {
        "AddressError": "penstock.runtime.network",
        "Admin": "penstock.client.admin",
        "Attempt": "penstock.consumer.redrive",
        "AuthorizationFailed": "penstock.client.errors",
        "BacklogFull": "penstock.client.errors",
        "BootstrapFailed": "penstock.client.errors",
        "Broker": "penstock.testing.broker",
        "BrokerEnded": "penstock.testing.broker_process",
        "BrokerError": "penstock.client.errors",
        "BrokerProcess": "penstock.testing.broker_process",
        "BrokerStartFailed": "penstock.testing.broker_process",
        "BufferFull": "penstock.client.errors",
        "ClusterMetadata": "penstock.client.metadata",
        "CommitFailed": "penstock.client.errors",
        "ConfigChange": "penstock.client.admin_values",
        "ConfigEntry": "penstock.client.admin_values",
        "ConfigError": "penstock.broker.errors",
        "ConfigOperation": "penstock.client.admin_values",
        "ConfigResource": "penstock.client.admin_values",
        "ConnectionLost": "penstock.runtime.network",
        "Consumer": "penstock.consumer.consumer",
        "ConsumerBatch": "penstock.consumer.batch",
        "ConsumerRecord": "penstock.consumer.record",
        "CorruptRecords": "penstock.consumer.errors",
        "CreatedTopic": "penstock.client.admin_values",
        "Delivery": "penstock.producer.batch",
        "DeliveryFailed": "penstock.client.errors",
        "DeliveryTimedOut": "penstock.client.errors",
        "ErrorCode": "penstock.protocol.errors",
        "FoundOffset": "penstock.client.admin_values",
        "GroupDescription": "penstock.client.group_values",
        "GroupFenced": "penstock.client.errors",
        "GroupKind": "penstock.client.group_values",
        "GroupListing": "penstock.client.group_values",
        "GroupMember": "penstock.client.group_values",
        "GroupNotEmpty": "penstock.client.errors",
        "GroupState": "penstock.client.group_values",
        "InvalidAddress": "penstock.client.metadata",
        "LogTruncated": "penstock.consumer.errors",
        "NewTopic": "penstock.client.admin_values",
        "NoInitialOffset": "penstock.consumer.errors",
        "OffsetAndMetadata": "penstock.client.group_values",
        "OffsetOutOfRange": "penstock.client.errors",
        "OffsetRange": "penstock.producer.many",
        "OutgoingRecord": "penstock.producer.producer",
        "PartitionError": "penstock.consumer.errors",
        "PenstockError": "penstock.errors",
        "PositionOutOfRange": "penstock.consumer.errors",
        "Producer": "penstock.producer.producer",
        "ProducerFenced": "penstock.client.errors",
        "QuotaEntity": "penstock.client.admin_quotas",
        "RebalanceInProgress": "penstock.client.errors",
        "RecordFailure": "penstock.consumer.dead_letters",
        "RecordMetadata": "penstock.producer.batch",
        "RecordTooLarge": "penstock.producer.producer",
        "Redrive": "penstock.consumer.redrive",
        "RedriveStatistics": "penstock.consumer.redrive",
        "RequestOutcomeUnknown": "penstock.client.errors",
        "ResourceKind": "penstock.client.admin_values",
        "SendManyResult": "penstock.producer.many",
        "TopicExists": "penstock.client.errors",
        "TopicMetadata": "penstock.client.metadata",
        "TopicPartition": "penstock.client.metadata",
        "UnknownGroup": "penstock.client.errors",
        "UnknownTopic": "penstock.client.errors",
        "UnsupportedByBroker": "penstock.client.errors",
    }

    def __getattr__(name):
        """Import a public name on its first use."""
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(home), name)
        globals()[name] = value
        return value

    def __dir__():
        """The public names too, before their first use."""
        return sorted({*globals(), *_HOMES})


__all__ = [
    "AddressError",
    "Admin",
    "Attempt",
    "AuthorizationFailed",
    "BacklogFull",
    "BootstrapFailed",
    "Broker",
    "BrokerEnded",
    "BrokerError",
    "BrokerProcess",
    "BrokerStartFailed",
    "BufferFull",
    "ClusterMetadata",
    "CommitFailed",
    "ConfigChange",
    "ConfigEntry",
    "ConfigError",
    "ConfigOperation",
    "ConfigResource",
    "ConnectionLost",
    "Consumer",
    "ConsumerBatch",
    "ConsumerRecord",
    "CorruptRecords",
    "CreatedTopic",
    "Delivery",
    "DeliveryFailed",
    "DeliveryTimedOut",
    "ErrorCode",
    "FoundOffset",
    "GroupDescription",
    "GroupFenced",
    "GroupKind",
    "GroupListing",
    "GroupMember",
    "GroupNotEmpty",
    "GroupState",
    "InvalidAddress",
    "LogTruncated",
    "NewTopic",
    "NoInitialOffset",
    "OffsetAndMetadata",
    "OffsetOutOfRange",
    "OffsetRange",
    "OutgoingRecord",
    "PartitionError",
    "PenstockError",
    "PositionOutOfRange",
    "Producer",
    "ProducerFenced",
    "QuotaEntity",
    "RebalanceInProgress",
    "RecordFailure",
    "RecordMetadata",
    "RecordTooLarge",
    "Redrive",
    "RedriveStatistics",
    "RequestOutcomeUnknown",
    "ResourceKind",
    "SendManyResult",
    "TopicExists",
    "TopicMetadata",
    "TopicPartition",
    "UnknownGroup",
    "UnknownTopic",
    "UnsupportedByBroker",
    "__version__",
]
