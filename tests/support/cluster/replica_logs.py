"""The logs of all replicas as they are on disk, compared byte for byte.

A follower stores its leader's bytes unchanged, so after healing the batches of two replicas are the same bytes at the same offsets with the same
epochs. Segments may be cut differently: only their concatenation is compared.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support import batches
from tests.support.cluster.cluster import Cluster
from tests.support.deadline import until
from tests.support.load.load import verify

LIMIT_S = 30.0


def read_log(folder: Path) -> bytes:
    """All batches of a partition's folder."""
    return b"".join(path.read_bytes() for path in sorted(folder.glob("*.log")))


def partition_folders(cluster: Cluster) -> dict[str, dict[int, Path]]:
    """By `topic-index`: node id to folder, of all partitions that a broker has."""
    found: dict[str, dict[int, Path]] = {}
    for node_id, broker in cluster.brokers.items():
        for folder in broker.data_directory.glob("*-*"):
            if re.fullmatch(r".+-\d+", folder.name) and (folder / "partition.metadata").exists():
                found.setdefault(folder.name, {})[node_id] = folder
    return found


def check_replicas(cluster: Cluster, topic: str, partition_count: int, replica_count: int = 3) -> int:
    """Wait until the logs of all replicas are the same bytes, which must come when nothing is written; then look at every batch.

    Returns the bytes of one replica of all partitions. A topic without compaction and retention.
    """
    size_bytes = 0
    for index in range(partition_count):
        name = f"{topic}-{index}"
        folders = partition_folders(cluster).get(name, {})
        assert len(folders) == replica_count, f"{name} is on {sorted(folders)}"
        logs: dict[int, bytes] = {}

        def same(folders: Mapping[int, Path] = folders, logs: dict[int, bytes] = logs) -> bool:
            logs.update({node: read_log(folder) for node, folder in folders.items()})
            return len(set(logs.values())) == 1

        try:
            until(same, f"equal logs of {name}", limit_s=LIMIT_S)
        except AssertionError as late:
            raise AssertionError(f"{late}: {difference(logs)}") from None
        log = next(iter(logs.values()))
        check_chain(name, log)
        size_bytes += len(log)
    return size_bytes


def check_chain(name: str, log: bytes) -> None:
    """Batches from offset 0 on without a gap, with right CRCs and epochs that never fall."""
    found = batches.split_batches(log)
    assert sum(map(len, found)) == len(log), f"{name}: a torn batch at the end"
    end, epoch = 0, 0
    for batch in found:
        assert batches.base_offset_of(batch) == end, (
            f"{name}: {batches.base_offset_of(batch)} after {end - 1}"
        )
        assert batches.crc_is_right(batch), f"{name}: the batch at {end} has a wrong CRC"
        assert batches.leader_epoch_of(batch) >= epoch, f"{name}: the epoch falls at {end}"
        end, epoch = batches.end_offset_of(batch), batches.leader_epoch_of(batch)


def difference(logs: Mapping[int, bytes]) -> str:
    """Where logs part, for people."""
    lists = {node: [_told(batch) for batch in batches.split_batches(log)] for node, log in logs.items()}
    longest = max(len(told) for told in lists.values())
    for place in range(longest):
        here = {node: told[place : place + 1] for node, told in lists.items()}
        raw = {bytes(_at(logs[node], place)) for node in logs}
        if len(raw) > 1:
            return f"batch {place} is {here}; batches: { {node: len(told) for node, told in lists.items()} }"
    return "no whole batch differs"


def _at(log: bytes, place: int) -> bytes:
    found: Sequence[bytes] = batches.split_batches(log)
    return found[place] if place < len(found) else b""


def _told(batch: bytes) -> str:
    return f"offset {batches.base_offset_of(batch)} epoch {batches.leader_epoch_of(batch)} {len(batch)} B"


def check_folders(cluster: Cluster) -> None:
    """`penstock log verify` finds nothing wrong in any data folder; all brokers have been stopped."""
    for broker in cluster.brokers.values():
        verify(broker.data_directory)
