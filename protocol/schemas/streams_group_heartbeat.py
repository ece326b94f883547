"""StreamsGroupHeartbeat, API key 88. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 0)
FLEXIBLE_FROM = 0

REQUEST: Structs = {
    "StreamsGroupHeartbeatRequest": (
        ("group_id", "string", "0+", ""),
        ("member_id", "string", "0+", ""),
        ("member_epoch", "int32", "0+", 0),
        ("endpoint_information_epoch", "int32", "0+", 0),
        ("instance_id", "string", "0+", None, "0+"),
        ("rack_id", "string", "0+", None, "0+"),
        ("rebalance_timeout_ms", "int32", "0+", -1),
        ("topology", "Topology", "0+", None, "0+"),
        ("active_tasks", "[]TaskIds", "0+", None, "0+"),
        ("standby_tasks", "[]TaskIds", "0+", None, "0+"),
        ("warmup_tasks", "[]TaskIds", "0+", None, "0+"),
        ("process_id", "string", "0+", None, "0+"),
        ("user_endpoint", "Endpoint", "0+", None, "0+"),
        ("client_tags", "[]KeyValue", "0+", None, "0+"),
        ("task_offsets", "[]TaskOffset", "0+", None, "0+"),
        ("task_end_offsets", "[]TaskOffset", "0+", None, "0+"),
        ("shutdown_application", "bool", "0+", False),
    ),
    "Topology": (
        ("epoch", "int32", "0+", 0),
        ("subtopologies", "[]Subtopology", "0+", ()),
    ),
    "Subtopology": (
        ("subtopology_id", "string", "0+", ""),
        ("source_topics", "[]string", "0+", ()),
        ("source_topic_regex", "[]string", "0+", ()),
        ("state_changelog_topics", "[]TopicInfo", "0+", ()),
        ("repartition_sink_topics", "[]string", "0+", ()),
        ("repartition_source_topics", "[]TopicInfo", "0+", ()),
        ("copartition_groups", "[]CopartitionGroup", "0+", ()),
    ),
    "TopicInfo": (
        ("name", "string", "0+", ""),
        ("partitions", "int32", "0+", 0),
        ("replication_factor", "int16", "0+", 0),
        ("topic_configs", "[]KeyValue", "0+", ()),
    ),
    "KeyValue": (
        ("key", "string", "0+", ""),
        ("value", "string", "0+", ""),
    ),
    "CopartitionGroup": (
        ("source_topics", "[]int16", "0+", ()),
        ("source_topic_regex", "[]int16", "0+", ()),
        ("repartition_source_topics", "[]int16", "0+", ()),
    ),
    "TaskIds": (
        ("subtopology_id", "string", "0+", ""),
        ("partitions", "[]int32", "0+", ()),
    ),
    "Endpoint": (
        ("host", "string", "0+", ""),
        ("port", "uint16", "0+", 0),
    ),
    "TaskOffset": (
        ("subtopology_id", "string", "0+", ""),
        ("partition", "int32", "0+", 0),
        ("offset", "int64", "0+", 0),
    ),
}

RESPONSE: Structs = {
    "StreamsGroupHeartbeatResponse": (
        ("throttle_time_ms", "int32", "0+", 0),
        ("error_code", "int16", "0+", 0),
        ("error_message", "string", "0+", None, "0+"),
        ("member_id", "string", "0+", ""),
        ("member_epoch", "int32", "0+", 0),
        ("heartbeat_interval_ms", "int32", "0+", 0),
        ("acceptable_recovery_lag", "int32", "0+", 0),
        ("task_offset_interval_ms", "int32", "0+", 0),
        ("status", "[]Status", "0+", None, "0+"),
        ("active_tasks", "[]TaskIds", "0+", None, "0+"),
        ("standby_tasks", "[]TaskIds", "0+", None, "0+"),
        ("warmup_tasks", "[]TaskIds", "0+", None, "0+"),
        ("endpoint_information_epoch", "int32", "0+", 0),
        ("partitions_by_user_endpoint", "[]EndpointToPartitions", "0+", None, "0+"),
    ),
    "Status": (
        ("status_code", "int8", "0+", 0),
        ("status_detail", "string", "0+", ""),
    ),
    "TaskIds": (
        ("subtopology_id", "string", "0+", ""),
        ("partitions", "[]int32", "0+", ()),
    ),
    "EndpointToPartitions": (
        ("user_endpoint", "Endpoint", "0+", ()),
        ("active_partitions", "[]TopicPartition", "0+", ()),
        ("standby_partitions", "[]TopicPartition", "0+", ()),
    ),
    "Endpoint": (
        ("host", "string", "0+", ""),
        ("port", "uint16", "0+", 0),
    ),
    "TopicPartition": (
        ("topic", "string", "0+", ""),
        ("partitions", "[]int32", "0+", ()),
    ),
}
