"""The APIs: their keys, the versions that Penstock serves, and which header and encoding a version has.

Owns the one table that ApiVersions answers from, that docs/protocol.md shows and that framing checks requests against.
Knows no fields: those are in `schemas/`. A version is in the table only when all that it promises is true of Penstock
(Kafka 4.1 is the measure); `missing` says what a served API still lacks.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


class ApiKey(enum.IntEnum):
    """Every API that a Kafka 4.1 broker offers to clients, served here or not."""

    PRODUCE = 0
    FETCH = 1
    LIST_OFFSETS = 2
    METADATA = 3
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9
    FIND_COORDINATOR = 10
    JOIN_GROUP = 11
    HEARTBEAT = 12
    LEAVE_GROUP = 13
    SYNC_GROUP = 14
    DESCRIBE_GROUPS = 15
    LIST_GROUPS = 16
    SASL_HANDSHAKE = 17
    API_VERSIONS = 18
    CREATE_TOPICS = 19
    DELETE_TOPICS = 20
    DELETE_RECORDS = 21
    INIT_PRODUCER_ID = 22
    OFFSET_FOR_LEADER_EPOCH = 23
    ADD_PARTITIONS_TO_TXN = 24
    ADD_OFFSETS_TO_TXN = 25
    END_TXN = 26
    WRITE_TXN_MARKERS = 27
    TXN_OFFSET_COMMIT = 28
    DESCRIBE_ACLS = 29
    CREATE_ACLS = 30
    DELETE_ACLS = 31
    DESCRIBE_CONFIGS = 32
    ALTER_CONFIGS = 33
    ALTER_REPLICA_LOG_DIRS = 34
    DESCRIBE_LOG_DIRS = 35
    SASL_AUTHENTICATE = 36
    CREATE_PARTITIONS = 37
    CREATE_DELEGATION_TOKEN = 38
    RENEW_DELEGATION_TOKEN = 39
    EXPIRE_DELEGATION_TOKEN = 40
    DESCRIBE_DELEGATION_TOKEN = 41
    DELETE_GROUPS = 42
    ELECT_LEADERS = 43
    INCREMENTAL_ALTER_CONFIGS = 44
    ALTER_PARTITION_REASSIGNMENTS = 45
    LIST_PARTITION_REASSIGNMENTS = 46
    OFFSET_DELETE = 47
    DESCRIBE_CLIENT_QUOTAS = 48
    ALTER_CLIENT_QUOTAS = 49
    DESCRIBE_USER_SCRAM_CREDENTIALS = 50
    ALTER_USER_SCRAM_CREDENTIALS = 51
    DESCRIBE_QUORUM = 55
    UPDATE_FEATURES = 57
    DESCRIBE_CLUSTER = 60
    DESCRIBE_PRODUCERS = 61
    UNREGISTER_BROKER = 64
    DESCRIBE_TRANSACTIONS = 65
    LIST_TRANSACTIONS = 66
    CONSUMER_GROUP_HEARTBEAT = 68
    CONSUMER_GROUP_DESCRIBE = 69
    GET_TELEMETRY_SUBSCRIPTIONS = 71
    PUSH_TELEMETRY = 72
    LIST_CONFIG_RESOURCES = 74
    DESCRIBE_TOPIC_PARTITIONS = 75
    SHARE_GROUP_HEARTBEAT = 76
    SHARE_GROUP_DESCRIBE = 77
    SHARE_FETCH = 78
    SHARE_ACKNOWLEDGE = 79
    ADD_RAFT_VOTER = 80
    REMOVE_RAFT_VOTER = 81
    INITIALIZE_SHARE_GROUP_STATE = 83
    READ_SHARE_GROUP_STATE = 84
    WRITE_SHARE_GROUP_STATE = 85
    DELETE_SHARE_GROUP_STATE = 86
    READ_SHARE_GROUP_STATE_SUMMARY = 87
    STREAMS_GROUP_HEARTBEAT = 88
    STREAMS_GROUP_DESCRIBE = 89
    DESCRIBE_SHARE_GROUP_OFFSETS = 90
    ALTER_SHARE_GROUP_OFFSETS = 91
    DELETE_SHARE_GROUP_OFFSETS = 92


NEVER = 32_767
"""As a first flexible version: no version of the API is flexible."""

FLEXIBLE_FROM: Mapping[int, int] = MappingProxyType(
    {int(key): 0 for key in ApiKey}
    | {
        ApiKey.PRODUCE: 9,
        ApiKey.FETCH: 12,
        ApiKey.LIST_OFFSETS: 6,
        ApiKey.METADATA: 9,
        ApiKey.OFFSET_COMMIT: 8,
        ApiKey.OFFSET_FETCH: 6,
        ApiKey.FIND_COORDINATOR: 3,
        ApiKey.JOIN_GROUP: 6,
        ApiKey.HEARTBEAT: 4,
        ApiKey.LEAVE_GROUP: 4,
        ApiKey.SYNC_GROUP: 4,
        ApiKey.DESCRIBE_GROUPS: 5,
        ApiKey.LIST_GROUPS: 3,
        ApiKey.SASL_HANDSHAKE: NEVER,
        ApiKey.API_VERSIONS: 3,
        ApiKey.CREATE_TOPICS: 5,
        ApiKey.DELETE_TOPICS: 4,
        ApiKey.DELETE_RECORDS: 2,
        ApiKey.INIT_PRODUCER_ID: 2,
        ApiKey.OFFSET_FOR_LEADER_EPOCH: 4,
        ApiKey.ADD_PARTITIONS_TO_TXN: 3,
        ApiKey.ADD_OFFSETS_TO_TXN: 3,
        ApiKey.END_TXN: 3,
        ApiKey.WRITE_TXN_MARKERS: 1,
        ApiKey.TXN_OFFSET_COMMIT: 3,
        ApiKey.DESCRIBE_ACLS: 2,
        ApiKey.CREATE_ACLS: 2,
        ApiKey.DELETE_ACLS: 2,
        ApiKey.DESCRIBE_CONFIGS: 4,
        ApiKey.ALTER_CONFIGS: 2,
        ApiKey.ALTER_REPLICA_LOG_DIRS: 2,
        ApiKey.DESCRIBE_LOG_DIRS: 2,
        ApiKey.SASL_AUTHENTICATE: 2,
        ApiKey.CREATE_PARTITIONS: 2,
        ApiKey.CREATE_DELEGATION_TOKEN: 2,
        ApiKey.RENEW_DELEGATION_TOKEN: 2,
        ApiKey.EXPIRE_DELEGATION_TOKEN: 2,
        ApiKey.DESCRIBE_DELEGATION_TOKEN: 2,
        ApiKey.DELETE_GROUPS: 2,
        ApiKey.ELECT_LEADERS: 2,
        ApiKey.INCREMENTAL_ALTER_CONFIGS: 1,
        ApiKey.OFFSET_DELETE: NEVER,
        ApiKey.DESCRIBE_CLIENT_QUOTAS: 1,
        ApiKey.ALTER_CLIENT_QUOTAS: 1,
    }
)
"""The first version in each API with compact lengths, tagged fields and the header that has them (KIP-482)."""


@dataclass(frozen=True, slots=True)
class Api:
    """One API as it is served: the versions, since which Penstock, and what is not there."""

    key: ApiKey
    name: str
    versions: range
    since: str
    missing: str = ""

    @property
    def flexible_from(self) -> int:
        """The first flexible version; NEVER where there is none."""
        return FLEXIBLE_FROM[self.key]


def _versions(first: int, last: int) -> range:
    return range(first, last + 1)


_TABLE = (
    Api(
        ApiKey.PRODUCE,
        "Produce",
        _versions(0, 13),
        "0.1.0",
        "0 to 2 are advertised (librdkafka stops compressing without them) and refused with UNSUPPORTED_VERSION; "
        "transactional batches",
    ),
    Api(
        ApiKey.FETCH,
        "Fetch",
        _versions(4, 18),
        "0.1.0",
        "fetching from the closest replica (preferred read replica)",
    ),
    Api(
        ApiKey.LIST_OFFSETS,
        "ListOffsets",
        _versions(1, 10),
        "0.1.0",
        "tiered storage: its timestamps answer -1",
    ),
    Api(ApiKey.METADATA, "Metadata", _versions(0, 13), "0.1.0", "authorized operations"),
    Api(ApiKey.OFFSET_COMMIT, "OffsetCommit", _versions(2, 10), "0.1.0"),
    Api(ApiKey.OFFSET_FETCH, "OffsetFetch", _versions(1, 10), "0.1.0"),
    Api(
        ApiKey.FIND_COORDINATOR,
        "FindCoordinator",
        _versions(0, 5),
        "0.1.0",
        "transactions; share groups (version 6)",
    ),
    Api(ApiKey.JOIN_GROUP, "JoinGroup", _versions(0, 9), "0.1.0"),
    Api(ApiKey.HEARTBEAT, "Heartbeat", _versions(0, 4), "0.1.0"),
    Api(ApiKey.LEAVE_GROUP, "LeaveGroup", _versions(0, 5), "0.1.0"),
    Api(ApiKey.SYNC_GROUP, "SyncGroup", _versions(0, 5), "0.1.0"),
    Api(ApiKey.DESCRIBE_GROUPS, "DescribeGroups", _versions(0, 6), "0.1.0"),
    Api(ApiKey.LIST_GROUPS, "ListGroups", _versions(0, 5), "0.1.0"),
    Api(ApiKey.API_VERSIONS, "ApiVersions", _versions(0, 4), "0.1.0"),
    Api(ApiKey.CREATE_TOPICS, "CreateTopics", _versions(2, 7), "0.1.0"),
    Api(ApiKey.DELETE_TOPICS, "DeleteTopics", _versions(1, 6), "0.1.0"),
    Api(ApiKey.DELETE_RECORDS, "DeleteRecords", _versions(0, 2), "0.1.0"),
    Api(
        ApiKey.INIT_PRODUCER_ID,
        "InitProducerId",
        _versions(0, 5),
        "0.1.0",
        "transactional ids; version 6 (two-phase commit)",
    ),
    Api(ApiKey.OFFSET_FOR_LEADER_EPOCH, "OffsetForLeaderEpoch", _versions(2, 4), "0.1.0"),
    Api(
        ApiKey.DESCRIBE_CONFIGS,
        "DescribeConfigs",
        _versions(1, 4),
        "0.1.0",
        "resources other than topics and brokers",
    ),
    Api(
        ApiKey.ALTER_CONFIGS,
        "AlterConfigs",
        _versions(0, 2),
        "0.1.0",
        "resources other than topics and brokers",
    ),
    Api(
        ApiKey.DESCRIBE_LOG_DIRS,
        "DescribeLogDirs",
        _versions(1, 4),
        "0.1.0",
        "more than one folder; future replicas",
    ),
    Api(ApiKey.CREATE_PARTITIONS, "CreatePartitions", _versions(0, 3), "0.1.0"),
    Api(ApiKey.DELETE_GROUPS, "DeleteGroups", _versions(0, 2), "0.1.0"),
    Api(ApiKey.ELECT_LEADERS, "ElectLeaders", _versions(0, 2), "0.1.0"),
    Api(
        ApiKey.INCREMENTAL_ALTER_CONFIGS,
        "IncrementalAlterConfigs",
        _versions(0, 1),
        "0.1.0",
        "resources other than topics and brokers",
    ),
    Api(
        ApiKey.ALTER_PARTITION_REASSIGNMENTS,
        "AlterPartitionReassignments",
        _versions(0, 1),
        "0.1.0",
    ),
    Api(
        ApiKey.LIST_PARTITION_REASSIGNMENTS,
        "ListPartitionReassignments",
        _versions(0, 0),
        "0.1.0",
    ),
    Api(ApiKey.OFFSET_DELETE, "OffsetDelete", _versions(0, 0), "0.1.0"),
    Api(
        ApiKey.DESCRIBE_CLIENT_QUOTAS,
        "DescribeClientQuotas",
        _versions(0, 1),
        "0.1.0",
        "quotas by ip address",
    ),
    Api(
        ApiKey.ALTER_CLIENT_QUOTAS,
        "AlterClientQuotas",
        _versions(0, 1),
        "0.1.0",
        "quotas by ip address; controller_mutation_rate, connection_creation_rate",
    ),
    Api(
        ApiKey.DESCRIBE_USER_SCRAM_CREDENTIALS,
        "DescribeUserScramCredentials",
        _versions(0, 0),
        "0.1.0",
        "credentials: there are none (`kafka-configs.sh --describe --entity-type users` asks for them)",
    ),
    Api(ApiKey.DESCRIBE_CLUSTER, "DescribeCluster", _versions(0, 2), "0.1.0", "controllers as endpoints"),
    Api(
        ApiKey.UNREGISTER_BROKER,
        "UnregisterBroker",
        _versions(0, 0),
        "0.1.0",
        "a live broker (refused); the replicas that a dead one has are reassigned, not removed",
    ),
    Api(ApiKey.CONSUMER_GROUP_HEARTBEAT, "ConsumerGroupHeartbeat", _versions(0, 1), "0.1.0"),
    Api(ApiKey.CONSUMER_GROUP_DESCRIBE, "ConsumerGroupDescribe", _versions(0, 1), "0.1.0"),
    Api(
        ApiKey.DESCRIBE_TOPIC_PARTITIONS,
        "DescribeTopicPartitions",
        _versions(0, 0),
        "0.1.0",
        "the last known eligible leader replicas (the list is empty)",
    ),
)

SERVED: Mapping[int, Api] = MappingProxyType({int(api.key): api for api in _TABLE})
"""What ApiVersions tells, by API key, ascending."""


def is_flexible(api_key: int, version: int) -> bool:
    """Whether the version has compact lengths and tagged fields. KeyError for an API that Kafka's clients don't have."""
    return version >= FLEXIBLE_FROM[api_key]


def response_header_version(api_key: int, version: int) -> int:
    """0 or 1. ApiVersions is always 0: a client must be able to read the answer before it knows what we speak."""
    if api_key == ApiKey.API_VERSIONS:
        return 0
    return 1 if version >= FLEXIBLE_FROM[api_key] else 0
