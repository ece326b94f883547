"""Kafka's JSON files of reassignments, as `kafka-reassign-partitions` reads and prints them.

Owns the format: `{"version":1,"partitions":[{"topic":"t","partition":0,"replicas":[1,2],"log_dirs":["any","any"]}]}`. Source: Kafka's
`ReassignPartitionsCommand`.
"""

import json
from collections.abc import Mapping
from typing import Any, cast

from penstock.cli.cluster_plan import Plan, Replicas
from penstock.cli.failure import CalledWrongly
from penstock.client.metadata import TopicPartition
from penstock.runtime.files import FileSystem, StorageError, read_file


def read_reassignments(files: FileSystem, path: str) -> Plan:
    """The targets in a file. Raises CalledWrongly, also where it can't be read."""
    try:
        text = read_file(files, path).decode()
    except FileNotFoundError as error:
        raise CalledWrongly(f"{path}: no such file") from error
    except StorageError as error:
        raise CalledWrongly(f"{path}: {error}") from error
    except UnicodeDecodeError as error:
        raise CalledWrongly(f"{path}: this is not JSON: {error}") from error
    return parse_reassignments(text, path)


def parse_reassignments(text: str, name: str) -> Plan:
    """The target of each partition. Raises CalledWrongly, one line that names the file."""
    try:
        document: Any = json.loads(text)
    except ValueError as error:
        raise CalledWrongly(f"{name}: this is not JSON: {error}") from error
    entries: Any = cast(dict[str, Any], document).get("partitions") if isinstance(document, dict) else None
    listed: Any = entries
    if not isinstance(entries, list) or cast(dict[str, Any], document).get("version", 1) != 1:
        raise CalledWrongly(f'{name}: this is not {{"version":1,"partitions":[…]}}')
    plan: Plan = {}
    for entry in listed:
        partition, replicas = _entry(entry, name)
        if partition in plan:
            raise CalledWrongly(f"{name}: {partition} is there twice")
        plan[partition] = replicas
    if not plan:
        raise CalledWrongly(f"{name}: there is no partition in it")
    return plan


def _entry(entry: Any, name: str) -> tuple[TopicPartition, Replicas]:
    match entry:
        case {"topic": str(topic), "partition": int(index), "replicas": [*replicas]} if _are_ids(replicas):
            directories: list[Any] = entry.get("log_dirs") or []
            if any(directory != "any" for directory in directories):
                raise CalledWrongly(f"{name}: {topic}-{index}: a broker has one folder, so log_dirs is any")
            return TopicPartition(topic, index), tuple(replicas)
        case _:
            shown = json.dumps(entry)
            raise CalledWrongly(f"{name}: this is no partition with replicas: {shown[:200]}")


def _are_ids(replicas: list[Any]) -> bool:
    return bool(replicas) and all(isinstance(node, int) and node >= 0 for node in replicas)


def reassignments_text(replicas: Mapping[TopicPartition, Replicas]) -> str:
    """The same on one line."""
    entries = [
        {
            "topic": partition.topic,
            "partition": partition.partition,
            "replicas": list(nodes),
            "log_dirs": ["any"] * len(nodes),
        }
        for partition, nodes in sorted(replicas.items())
    ]
    return json.dumps({"version": 1, "partitions": entries}, separators=(",", ":"))


__all__ = ["parse_reassignments", "read_reassignments", "reassignments_text"]
