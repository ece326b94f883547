"""Loads that are used by more than one test."""

from tests.support.load.actors import Committer, Observer, TopicMaker, Trimmer
from tests.support.load.ledger import PartitionLedger
from tests.support.load.load import Load
from tests.support.load.writers import LibrdkafkaWriter, PenstockWriter, RawWriter
from tests.support.topics import create_topic
from tests.support.wire import connect

SETTINGS = {
    "offsets_topic_num_partitions": "2",
    "offsets_topic_replication_factor": "1",
    "replica_high_watermark_checkpoint_interval_ms": "100",
    "log_retention_check_interval_ms": "100",
    "log_cleaner_backoff_ms": "100",
}
"""Of a broker that is to be hurt under one of these loads."""
ROLLING = {"segment.bytes": "65536", "index.interval.bytes": "1024"}

COMPACTED = {
    "cleanup.policy": "compact",
    "segment.bytes": "8192",
    "min.cleanable.dirty.ratio": "0.01",
    "index.interval.bytes": "512",
}


def everything(bootstrap: str, seed: int) -> Load:
    """Seven writers, a reader, two groups, deletions of records and of topics, retention, compaction, segments of 64 KB. All that is acked must stay."""
    with connect(bootstrap) as connection:
        kept = create_topic(connection, "kept", partitions=4, configs=ROLLING)
        cut = create_topic(connection, "cut", configs={"segment.bytes": "16384"})
        aged = create_topic(connection, "aged", configs={"segment.bytes": "8192", "retention.bytes": "30000"})
        latest = create_topic(connection, "latest", configs=COMPACTED)
    ledgers = [PartitionLedger(kept, index) for index in range(4)]
    compacted = PartitionLedger(latest, 0, may_compact=True)
    trimmed = PartitionLedger(cut, 0)
    expiring = PartitionLedger(aged, 0, may_expire=True)
    everywhere = [*ledgers, trimmed, expiring]
    return Load(
        bootstrap,
        [*everywhere, compacted],
        [
            RawWriter(bootstrap, "raw-idempotent", everywhere, is_idempotent=True, seed=seed),
            RawWriter(bootstrap, "raw-plain", ledgers, is_idempotent=False, seed=seed + 1),
            RawWriter(bootstrap, "raw-keyed", [compacted], is_idempotent=True, seed=seed + 3),
            RawWriter(bootstrap, "raw-leader", ledgers[:1], is_idempotent=False, seed=seed + 2, acks=1),
            LibrdkafkaWriter(bootstrap, "librdkafka-idempotent", everywhere, is_idempotent=True),
            LibrdkafkaWriter(bootstrap, "librdkafka-plain", ledgers[:2], is_idempotent=False),
            PenstockWriter(bootstrap, "penstock", [*ledgers[2:], trimmed, expiring]),
        ],
        [
            Observer(bootstrap, [*everywhere, compacted]),
            Committer(bootstrap, "one", kept, 4),
            Committer(bootstrap, "two", kept, 4),
            Trimmer(bootstrap, trimmed, seed),
            TopicMaker(bootstrap),
        ],
    )


def that_may_lose(bootstrap: str, seed: int) -> Load:
    """For a broker that may lose the newest of what it acked: writers who get over that, a reader, and topics, which must stay."""
    with connect(bootstrap) as connection:
        topic = create_topic(connection, "may-lose", partitions=3, configs=ROLLING)
    ledgers = [PartitionLedger(topic, index) for index in range(3)]
    return Load(
        bootstrap,
        ledgers,
        [
            RawWriter(bootstrap, "first", ledgers, is_idempotent=True, seed=seed, may_lose=True),
            RawWriter(bootstrap, "second", ledgers, is_idempotent=True, seed=seed + 1, may_lose=True),
            RawWriter(bootstrap, "plain", ledgers, is_idempotent=False, seed=seed + 2),
        ],
        [Observer(bootstrap, ledgers), TopicMaker(bootstrap)],
        may_lose=True,
    )
