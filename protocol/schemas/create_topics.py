"""CreateTopics, API key 19. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (2, 7)
FLEXIBLE_FROM = 5

REQUEST: Structs = {
    "CreateTopicsRequest": (
        ("topics", "[]CreatableTopic", "2+", ()),
        ("timeout_ms", "int32", "2+", 60000),
        ("validate_only", "bool", "2+", False),
    ),
    "CreatableTopic": (
        ("name", "string", "2+", ""),
        ("num_partitions", "int32", "2+", 0),
        ("replication_factor", "int16", "2+", 0),
        ("assignments", "[]CreatableReplicaAssignment", "2+", ()),
        ("configs", "[]CreatableTopicConfig", "2+", ()),
    ),
    "CreatableReplicaAssignment": (
        ("partition_index", "int32", "2+", 0),
        ("broker_ids", "[]int32", "2+", ()),
    ),
    "CreatableTopicConfig": (
        ("name", "string", "2+", ""),
        ("value", "string", "2+", None, "2+"),
    ),
}

RESPONSE: Structs = {
    "CreateTopicsResponse": (
        ("throttle_time_ms", "int32", "2+", 0),
        ("topics", "[]CreatableTopicResult", "2+", ()),
    ),
    "CreatableTopicResult": (
        ("name", "string", "2+", ""),
        ("topic_id", "uuid", "7+", 0),
        ("error_code", "int16", "2+", 0),
        ("error_message", "string", "2+", None, "2+"),
        ("topic_config_error_code", "int16", "5+", 0, "", 0),
        ("num_partitions", "int32", "5+", -1),
        ("replication_factor", "int16", "5+", -1),
        ("configs", "[]CreatableTopicConfigs", "5+", (), "5+"),
    ),
    "CreatableTopicConfigs": (
        ("name", "string", "5+", ""),
        ("value", "string", "5+", None, "5+"),
        ("read_only", "bool", "5+", False),
        ("config_source", "int8", "5+", -1),
        ("is_sensitive", "bool", "5+", False),
    ),
}
