"""kafka-python: pure Python, blocking."""

import importlib
import warnings
from collections.abc import Sequence
from typing import Any

from tests.support.clients import LIMIT_S
from tests.support.deadline import until
from tests.support.requirements import need

with warnings.catch_warnings():
    warnings.simplefilter(
        "ignore", DeprecationWarning
    )  # it calls what Python deprecates; more so lazily, see WARNINGS
    kafka: Any = importlib.import_module("kafka")  # untyped
    codecs: Any = importlib.import_module("kafka.codec")

WARNINGS = "ignore::DeprecationWarning"
"""For `pytest.mark.filterwarnings` on tests that use this client."""


def need_codec(codec: str) -> None:
    """Skip where the library that kafka-python leaves a codec to is missing."""
    need(codec == "none" or getattr(codecs, f"has_{codec}")(), f"kafka-python's {codec}")


def produce(bootstrap: str, topic: str, values: Sequence[bytes], codec: str) -> None:
    """Produce to partition 0, and wait for all acks."""
    need_codec(codec)
    kind = None if codec == "none" else codec
    producer = kafka.KafkaProducer(bootstrap_servers=bootstrap, compression_type=kind, linger_ms=5)
    try:
        sent = [producer.send(topic, value, partition=0) for value in values]
        offsets = [each.get(LIMIT_S).offset for each in sent]
    finally:
        producer.close()
    assert offsets == sorted(offsets)


def consume(bootstrap: str, topic: str, count: int, partition: int = 0) -> list[bytes]:
    """The first `count` values of a partition."""
    for codec in ("snappy", "lz4", "zstd"):
        need_codec(codec)
    consumer = kafka.KafkaConsumer(
        bootstrap_servers=bootstrap, group_id=None, enable_auto_commit=False, auto_offset_reset="none"
    )
    found: list[bytes] = []

    def enough() -> bool:
        for records in consumer.poll(timeout_ms=200, max_records=10_000).values():
            found.extend(record.value for record in records)
        return len(found) >= count

    try:
        place = kafka.TopicPartition(topic, partition)
        consumer.assign([place])
        consumer.seek(place, 0)
        until(enough, f"{count} messages by kafka-python", limit_s=LIMIT_S)
    finally:
        consumer.close()
    return found[:count]
