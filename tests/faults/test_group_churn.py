"""Groups under churn: members join, leave, are killed and freeze at random while the topic is written to (PROPERTIES G1, G2).

`CHURN_SECONDS=120` is the long run (`make long`); without it each run is short. `CHURN_DEBUG=cgrp,topic,fetch` has librdkafka's members log so to
`members/*.err` in the test's folder.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.faults.conftest import StartServer
from tests.support.churn import history
from tests.support.churn.group import Churn, Plan
from tests.support.churn.history import Commit, StoredRecord
from tests.support.topics import await_partitions, create_topic
from tests.support.wire import connect

from penstock.protocol.consumer_group_records import KEYS, VALUES, ConsumerRecordKind
from penstock.protocol.consumer_protocol import decode_assignment
from penstock.protocol.errors import DecodeError
from penstock.protocol.group_records import (
    RecordKind,
    decode_group_key,
    decode_group_value,
    decode_offset_key,
    decode_offset_value,
)

SECONDS = float(os.environ.get("CHURN_SECONDS", "6"))
SEED = int(os.environ.get("CHURN_SEED", "1"))
GROUP, PARTITION_COUNT = "churning", 24
SETTINGS = {
    "group_min_session_timeout_ms": "500",
    "group_initial_rebalance_delay_ms": "0",
    "group_consumer_min_session_timeout_ms": "500",
    "group_consumer_session_timeout_ms": "1500",
    "group_consumer_min_heartbeat_interval_ms": "100",
    "group_consumer_heartbeat_interval_ms": "300",
    "offsets_topic_num_partitions": "4",
    "offsets_topic_replication_factor": "1",
}


def commits_of(stored: Sequence[StoredRecord]) -> Iterator[Commit]:
    for record in stored:
        if int.from_bytes(record.key[:2], "big") == RecordKind.OFFSET_COMMIT and record.value is not None:
            key = decode_offset_key(record.key)
            value = decode_offset_value(record.value)
            yield Commit(key.group, key.topic, key.partition, value.offset, value.metadata)


def generations_of(stored: Sequence[StoredRecord]) -> Iterator[tuple[int, list[tuple[str, list[int]]]]]:
    for record in stored:
        if int.from_bytes(record.key[:2], "big") != RecordKind.GROUP_METADATA or record.value is None:
            continue
        if decode_group_key(record.key) != GROUP:
            continue
        value = decode_group_value(record.value)
        yield (
            value.generation,
            [
                (member.group_instance_id or member.member_id, _partitions(member.assignment))
                for member in value.members
            ],
        )


def holdings_of(stored: Sequence[StoredRecord]) -> Iterator[tuple[str, list[int] | None]]:
    kind = ConsumerRecordKind.CURRENT_MEMBER_ASSIGNMENT
    for record in stored:
        if int.from_bytes(record.key[:2], "big") != kind:
            continue
        member = KEYS[kind].decode(memoryview(record.key)).member_id
        if record.value is None:
            yield member, None
            continue
        value = VALUES[kind].decode(memoryview(record.value))
        parts = [*value.assigned_partitions, *value.partitions_pending_revocation]
        yield member, [index for part in parts for index in part.partitions]


def _partitions(assignment: bytes) -> list[int]:
    if not assignment:
        return []
    try:
        assigned = decode_assignment(assignment).partitions
    except DecodeError as error:  # pragma: no cover
        raise AssertionError(f"an assignment that can't be read: {error}") from error
    return [index for _, index in assigned]


@pytest.mark.parametrize(
    ("clients", "protocol", "assignor", "static_share"),
    [
        (("librdkafka",), "classic", "range", 0.0),
        (("librdkafka",), "classic", "cooperative-sticky", 0.3),
        (("librdkafka", "penstock"), "consumer", "uniform", 0.0),
        (("librdkafka", "aiokafka", "kafka-python", "penstock"), "classic", "roundrobin", 0.0),
        (("penstock",), "classic", "cooperative-sticky", 0.0),
    ],
    ids=["eager", "cooperative-static", "consumer-protocol", "mixed", "penstock"],
)
def test_nothing_is_lost_owned_twice_or_taken_back(
    start_server: StartServer,
    tmp_path: Path,
    clients: tuple[str, ...],
    protocol: str,
    assignor: str,
    static_share: float,
) -> None:
    server = start_server(**SETTINGS)
    with connect(server.bootstrap) as connection:
        topic = create_topic(connection, "churned", partitions=PARTITION_COUNT)
        await_partitions(connection, topic, PARTITION_COUNT)
    plan = Plan(
        group=GROUP,
        topic=topic,
        clients=clients,
        protocol=protocol,
        assignor=assignor,
        partition_count=PARTITION_COUNT,
        seconds=SECONDS,
        static_share=static_share,
        seed=SEED,
    )
    churn = Churn(server.bootstrap, plan, tmp_path / "members")
    churn.run()
    counts = churn.counts
    assert min(counts.started - 3, counts.killed + counts.frozen) > 0, f"too quiet to mean anything: {counts}"
    processed = history.read_notes(churn.notes)
    history.check_everything_processed(processed, counts.produced)
    stored = history.read_offsets_topic(server.bootstrap)
    assert history.check_commits_never_go_back(commits_of(stored)) > 0
    if protocol == "classic":
        assert history.check_one_owner(generations_of(stored)) > 3
    else:
        assert history.check_no_shared_partition(holdings_of(stored)) > 3
    print(f"{counts}; {processed.repeated_count} repeated, {processed.refused_count} commits refused")
