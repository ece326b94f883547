"""StreamsGroupDescribe, API key 89. Written by `make generate` from kio: do not edit."""

# fmt: off
from penstock.protocol.schemas import Structs

VERSIONS = (0, 0)
FLEXIBLE_FROM = 0

REQUEST: Structs = {
    "StreamsGroupDescribeRequest": (
        ("group_ids", "[]string", "0+", ()),
        ("include_authorized_operations", "bool", "0+", False),
    ),
}

RESPONSE: Structs = {
    "StreamsGroupDescribeResponse": (
        ("throttle_time_ms", "int32", "0+", 0),
        ("groups", "[]DescribedGroup", "0+", ()),
    ),
    "DescribedGroup": (
        ("error_code", "int16", "0+", 0),
        ("error_message", "string", "0+", None, "0+"),
        ("group_id", "string", "0+", ""),
        ("group_state", "string", "0+", ""),
        ("group_epoch", "int32", "0+", 0),
        ("assignment_epoch", "int32", "0+", 0),
        ("topology", "Topology", "0+", None, "0+"),
        ("members", "[]Member", "0+", ()),
        ("authorized_operations", "int32", "0+", -2147483648),
    ),
    "Topology": (
        ("epoch", "int32", "0+", 0),
        ("subtopologies", "[]Subtopology", "0+", (), "0+"),
    ),
    "Subtopology": (
        ("subtopology_id", "string", "0+", ""),
        ("source_topics", "[]string", "0+", ()),
        ("repartition_sink_topics", "[]string", "0+", ()),
        ("state_changelog_topics", "[]TopicInfo", "0+", ()),
        ("repartition_source_topics", "[]TopicInfo", "0+", ()),
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
    "Member": (
        ("member_id", "string", "0+", ""),
        ("member_epoch", "int32", "0+", 0),
        ("instance_id", "string", "0+", None, "0+"),
        ("rack_id", "string", "0+", None, "0+"),
        ("client_id", "string", "0+", ""),
        ("client_host", "string", "0+", ""),
        ("topology_epoch", "int32", "0+", 0),
        ("process_id", "string", "0+", ""),
        ("user_endpoint", "Endpoint", "0+", None, "0+"),
        ("client_tags", "[]KeyValue", "0+", ()),
        ("task_offsets", "[]TaskOffset", "0+", ()),
        ("task_end_offsets", "[]TaskOffset", "0+", ()),
        ("assignment", "Assignment", "0+", ()),
        ("target_assignment", "Assignment", "0+", ()),
        ("is_classic", "bool", "0+", False),
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
    "Assignment": (
        ("active_tasks", "[]TaskIds", "0+", ()),
        ("standby_tasks", "[]TaskIds", "0+", ()),
        ("warmup_tasks", "[]TaskIds", "0+", ()),
    ),
    "TaskIds": (
        ("subtopology_id", "string", "0+", ""),
        ("partitions", "[]int32", "0+", ()),
    ),
}
