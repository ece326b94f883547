"""What people write to get a topic into Parquet: confluent-kafka, pyarrow, a loop. `python -m bench.export_script BOOTSTRAP TOPIC FILE`.

Done well: a consumer that is set to run, many messages at a call, whole columns to Arrow, row groups of the size that `penstock export` has, zstd. It keeps no manifest,
checks nothing, syncs nothing, and begins anew when it is stopped.
"""

import importlib
import sys
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

BATCH = 10_000
ROW_GROUP_MAX_BYTES = 32 * 1024 * 1024
ROW_GROUP_MAX_RECORDS = 1024 * 1024
arrow: Any = importlib.import_module("pyarrow")
parquet: Any = importlib.import_module("pyarrow.parquet")


def schema() -> Any:
    """The same columns as those of `penstock export`."""
    header = arrow.struct([("name", arrow.string()), ("value", arrow.binary())])
    return arrow.schema(
        [
            ("topic", arrow.string()),
            ("partition", arrow.int32()),
            ("offset", arrow.int64()),
            ("timestamp", arrow.timestamp("ms", tz="UTC")),
            ("key", arrow.binary()),
            ("value", arrow.binary()),
            ("headers", arrow.list_(header)),
        ]
    )


def table_of(messages: list[Any], columns: Any) -> Any:
    """A table of messages."""
    headers = [
        [{"name": name, "value": value} for name, value in message.headers() or ()] for message in messages
    ]
    return arrow.table(
        [
            arrow.array([message.topic() for message in messages], columns.field(0).type),
            arrow.array([message.partition() for message in messages], columns.field(1).type),
            arrow.array([message.offset() for message in messages], columns.field(2).type),
            arrow.array([message.timestamp()[1] for message in messages], columns.field(3).type),
            arrow.array([message.key() for message in messages], columns.field(4).type),
            arrow.array([message.value() for message in messages], columns.field(5).type),
            arrow.array(headers, columns.field(6).type),
        ],
        schema=columns,
    )


def export(bootstrap: str, topic: str, path: str) -> int:
    """Everything that is in the topic now; returns how many records."""
    consumer: Any = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "script",
            "enable.auto.commit": False,
            "queued.min.messages": 1_000_000,
            "fetch.queue.backoff.ms": 10,  # a full queue would cost a second each time
            "log_level": 0,
        }
    )
    indexes = list(consumer.list_topics(topic, timeout=30).topics[topic].partitions)
    ends = {index: consumer.get_watermark_offsets(TopicPartition(topic, index))[1] for index in indexes}
    consumer.assign([TopicPartition(topic, index, OFFSET_BEGINNING) for index in indexes])
    left = {index for index, end in ends.items() if end}
    columns = schema()
    count = waiting_bytes = waiting_records = 0
    waiting: list[Any] = []
    with parquet.ParquetWriter(path, columns, compression="zstd") as writer:
        while left:
            messages = [each for each in consumer.consume(BATCH, timeout=1) if each.error() is None]
            if not messages:
                continue
            table = table_of(messages, columns)
            count += len(messages)
            for message in messages:
                if message.offset() >= ends[message.partition()] - 1:
                    left.discard(message.partition())
            waiting.append(table)
            waiting_bytes += table.nbytes
            waiting_records += len(messages)
            if waiting_bytes > ROW_GROUP_MAX_BYTES or waiting_records > ROW_GROUP_MAX_RECORDS or not left:
                writer.write_table(arrow.concat_tables(waiting), row_group_size=waiting_records)
                waiting.clear()
                waiting_bytes = waiting_records = 0
    consumer.close()
    return count


if __name__ == "__main__":
    sys.stdout.write(f"{export(*sys.argv[1:])}\n")
