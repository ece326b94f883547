"""Exports without a broker: batches made by hand, a disk in memory, a group that is a dict."""

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import TypeVar, TypeVarTuple

from tests.support.batches import encode_batch
from tests.support.memory_files import MemoryFiles

from penstock.client.metadata import TopicPartition
from penstock.consumer.batch import ConsumerBatch, RawBatch
from penstock.offline.exporting import ExportRun, export
from penstock.offline.folder import ExportFolder
from penstock.offline.manifest import ExportSpec, Manifest
from penstock.offline.pieces import Encoder
from penstock.offline.plan import LogRange, plan_run
from penstock.protocol.record_batch import iterate_batches

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Place = tuple[int, int]
TOPIC = "t"
DAY_MS = 86_400_000
BATCH_RECORDS = 3


class InPlace:
    """Worker threads that are none."""

    async def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Call it."""
        return function(*args)


def value_of(partition: int, offset: int) -> bytes:
    """What the record at a place holds."""
    return b"%d/%d" % (partition, offset)


def time_of(partition: int, offset: int) -> int:
    """Its timestamp: a few days, to and fro."""
    return DAY_MS * ((offset // 4 + partition) % 3) + offset


def batches_of(
    partition: int, start: int, end: int, values: Callable[[int, int], bytes] = value_of
) -> list[ConsumerBatch]:
    """The records of a partition between two offsets, in batches of three."""
    found: list[ConsumerBatch] = []
    for base in range(start - start % BATCH_RECORDS, end, BATCH_RECORDS):
        offsets = range(base, base + BATCH_RECORDS)
        data = encode_batch(
            [values(partition, offset) for offset in offsets],
            base_offset=base,
            timestamps_ms=[time_of(partition, offset) for offset in offsets],
        )
        (raw,) = (RawBatch(header, view) for header, view in iterate_batches(memoryview(data)))
        raw.open()
        found.append(
            ConsumerBatch(
                TopicPartition(TOPIC, partition),
                [raw],
                max(start, base),
                min(end, base + BATCH_RECORDS),
            )
        )
    return found


async def export_once(
    files: MemoryFiles,
    encoder: Encoder,
    ends: Mapping[int, int],
    group: dict[int, int] | None,
    *,
    on_commit: Callable[[], None] = lambda: None,
    format_name: str = "csv",
    log_starts: Mapping[int, int] | None = None,
    is_reversed: bool = False,
) -> Manifest:
    """One run, from the folder's manifest and the group to these ends."""
    spec = ExportSpec(TOPIC, format_name, "none", group=None if group is None else "g")
    folder = ExportFolder(files, "/out")
    found = folder.open()
    ranges = {
        index: LogRange((log_starts or {}).get(index, 0), (log_starts or {}).get(index, 0), end)
        for index, end in ends.items()
    }
    manifest = plan_run(found, Manifest(spec), ranges, group)
    run = ExportRun(folder, manifest, encoder, file_max_bytes=600)

    lanes = [batches_of(index, each.next, each.end) for index, each in manifest.partitions.items()]
    if is_reversed:
        lanes.reverse()  # partitions come as they please
    queue = [batch for turn in zip_longest(*lanes) for batch in turn if batch is not None]
    coming = iter(queue)

    async def next_batch() -> ConsumerBatch | None:
        return next(coming, None)

    async def commit(offsets: Mapping[int, int]) -> None:
        assert group is not None
        on_commit()
        group.update(offsets)
        on_commit()

    await export(run, next_batch, InPlace(), None if group is None else commit)
    folder.close()
    return manifest


def names_in(files: MemoryFiles) -> list[str]:
    """All data files in the folder, temporary ones too."""
    return sorted(name.removeprefix("/out/") for name in files.image() if "part-" in name)


def expected_places(ends: Mapping[int, int], starts: Mapping[int, int] | None = None) -> list[Place]:
    """Each record once."""
    return [
        (index, offset) for index, end in ends.items() for offset in range((starts or {}).get(index, 0), end)
    ]


def sha256_in(manifest: Manifest) -> Sequence[tuple[str, str]]:
    """Names and checksums."""
    return [(each.path, each.sha256) for each in manifest.files]


__all__ = [
    "DAY_MS",
    "TOPIC",
    "InPlace",
    "Place",
    "batches_of",
    "expected_places",
    "export_once",
    "names_in",
    "sha256_in",
    "time_of",
    "value_of",
]
