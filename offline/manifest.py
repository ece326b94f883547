"""The manifest of an export: what is in its folder, from where to where, and how far each partition is.

Owns the JSON form (docs/offline.md), its version and its checks. Pure.

Invariants: a file that the manifest lists is whole and holds what is told of it; what it does not list is no part of the export. Records before a
partition's `next` were exported, if they were in the window; none from `next` on was. `committed` is what the group is known to have committed
when the manifest was written: the group stands there or at `next`, unless somebody else moved it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from penstock.errors import PenstockError

FORMAT_VERSION = 1
MANIFEST_NAME = "_manifest.json"


class BadManifest(PenstockError):
    """What stands in the manifest's place is none that this version reads; the message says why."""


@dataclass(frozen=True, slots=True)
class ExportSpec:
    """What was asked for. A folder holds the export of one of these; `start` and `end` are as they were written."""

    topic: str
    format: str
    compression: str
    partition_by: str | None = None
    timezone: str = "UTC"
    group: str | None = None
    day: str | None = None
    start: str | None = None
    end: str | None = None
    partitions: tuple[int, ...] | None = None
    isolation: str = "read_committed"
    json: str | None = None


@dataclass(slots=True)
class PartitionProgress:
    """One partition. Offsets: `start` of the export, `next` to be exported, `end` of the run (exclusive), -1 for nothing committed."""

    start: int
    next: int
    end: int
    committed: int = -1


@dataclass(slots=True)
class FileRange:
    """What a file has of one partition: the first and the last offset, and how many records."""

    first_offset: int
    last_offset: int
    records: int


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """One file, by its path from the folder. `partitions` is by index."""

    path: str
    bytes: int
    sha256: str
    records: int
    min_timestamp: int
    max_timestamp: int
    partitions: Mapping[int, FileRange]


@dataclass(frozen=True, slots=True)
class Gap:
    """Records that retention deleted before they were exported: from `start` to `end` (exclusive)."""

    partition: int
    start: int
    end: int


@dataclass(slots=True)
class Manifest:
    """All of it."""

    spec: ExportSpec
    topic_id: str | None = None
    from_ms: int | None = None
    """The window of timestamps: from here on; None: all."""
    to_ms: int | None = None
    is_complete: bool = False
    runs: int = 0
    next_sequence: int = 1
    """The number of the next file."""
    partitions: dict[int, PartitionProgress] = field(default_factory=dict[int, PartitionProgress])
    files: list[ExportedFile] = field(default_factory=list[ExportedFile])
    gaps: list[Gap] = field(default_factory=list[Gap])
    json_columns: list[tuple[str, str]] | None = None
    """Name (a path with dots) and type of each column that values are spread into; None until they are known."""
    json_misfits: dict[str, int] = field(default_factory=dict[str, int])
    """By column how many values were there and not of its type: null in the column, whole in `value`."""

    @property
    def record_count(self) -> int:
        """Records in all files."""
        return sum(each.records for each in self.files)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(each.bytes for each in self.files)

    def encode(self) -> bytes:
        """The file's content."""
        return json.dumps(
            {"format_version": FORMAT_VERSION, "records": self.record_count, **asdict(self)}, indent=1
        ).encode()


def decode_manifest(data: bytes) -> Manifest:
    """Read it. Raises BadManifest."""
    try:
        fields = cast(dict[str, Any], json.loads(data))
        version = fields.pop("format_version")
        if version != FORMAT_VERSION:
            raise BadManifest(
                f"the manifest has version {version}; this penstock reads version {FORMAT_VERSION}"
            )
        fields.pop("records")
        spec = dict(fields.pop("spec"))
        if spec["partitions"] is not None:
            spec["partitions"] = tuple(spec["partitions"])
        partitions = {
            int(index): PartitionProgress(**each) for index, each in fields.pop("partitions").items()
        }
        files = [_file(each) for each in fields.pop("files")]
        gaps = [Gap(**each) for each in fields.pop("gaps")]
        columns = fields.pop("json_columns")
        json_columns = None if columns is None else [(str(name), str(kind)) for name, kind in columns]
        return Manifest(
            ExportSpec(**spec),
            partitions=partitions,
            files=files,
            gaps=gaps,
            json_columns=json_columns,
            **fields,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadManifest(f"no manifest of an export: {type(error).__name__}: {error}") from None


def _file(fields: dict[str, Any]) -> ExportedFile:
    partitions = {int(index): FileRange(**each) for index, each in fields.pop("partitions").items()}
    return ExportedFile(**fields, partitions=partitions)


__all__ = [
    "FORMAT_VERSION",
    "MANIFEST_NAME",
    "BadManifest",
    "ExportSpec",
    "ExportedFile",
    "FileRange",
    "Gap",
    "Manifest",
    "PartitionProgress",
    "decode_manifest",
]
