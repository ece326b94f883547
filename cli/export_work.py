"""The work of `penstock export`: what there is to do, the reading, the bar, and the last line.

Owns how a topic, a folder and a group come together. Knows no flags.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import click

from penstock.cli.asking import CLIENT_ID, counted
from penstock.cli.bounds import Bound, Kind, partitions_of, resolve
from penstock.cli.failure import CalledWrongly, CommandFailed, complain
from penstock.cli.interruption import interruptible
from penstock.cli.moments import parse_zone
from penstock.cli.offset_progress import offset_progress
from penstock.cli.output import bytes_text, print_json
from penstock.client.admin import Admin
from penstock.client.errors import BrokerError
from penstock.client.group_values import OffsetAndMetadata
from penstock.client.metadata import TopicMetadata, TopicPartition
from penstock.consumer.batch import ConsumerBatch, TimeWindow
from penstock.consumer.consumer import Consumer
from penstock.offline.exporting import Commit, ExportRun, NextBatch, export
from penstock.offline.folder import ExportFolder
from penstock.offline.folding import Folding
from penstock.offline.manifest import ExportSpec, Manifest
from penstock.offline.pieces import Encoder
from penstock.offline.plan import LogRange, plan_run
from penstock.offline.text_files import LineEncoder, csv_first_line, csv_line
from penstock.runtime.environment import Environment

_FETCH_MAX_BYTES = 1024 * 1024
_ALWAYS = TimeWindow(-(1 << 63), 1 << 63)


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What is to be done."""

    spec: ExportSpec
    start: Bound
    end: Bound
    folder: str
    file_max_bytes: int
    as_json: bool


async def run_export(bootstrap: str, ports: Environment, request: ExportRequest) -> int:
    """Do it, and tell what was done. Returns the exit code."""
    folder = ExportFolder(ports.files, request.folder.rstrip("/") or "/")
    begin_s = ports.clock.monotonic()
    try:
        found = await ports.threads.run(folder.open)
        async with interruptible() as interruption, Admin(bootstrap, ports, client_id=CLIENT_ID) as admin:
            run = None
            with interruption.work():
                run = await _planned(admin, folder, found, request)
                async with Consumer(
                    bootstrap,
                    environment=ports,
                    isolation_level=cast(
                        Literal["read_committed", "read_uncommitted"], request.spec.isolation
                    ),
                    partition_fetch_max_bytes=min(_FETCH_MAX_BYTES, request.file_max_bytes),
                    client_id=CLIENT_ID,
                ) as consumer:
                    await _export(admin, consumer, run, ports)
        if interruption.exit_code is not None or run is None:
            complain("interrupted; the same command goes on where the manifest is")
            return interruption.exit_code or 1
    finally:
        folder.close()
    _tell(run, request, ports.clock.monotonic() - begin_s)
    return 0


async def _planned(
    admin: Admin, folder: ExportFolder, found: Manifest | None, request: ExportRequest
) -> ExportRun:
    spec = request.spec
    topic = (await admin.describe_topics([spec.topic]))[spec.topic]
    if not isinstance(topic, TopicMetadata):
        raise topic
    wanted = Manifest(spec, None if topic.topic_id is None else topic.topic_id.hex())
    wanted.from_ms = request.start.value if request.start.kind is Kind.TIME else None
    wanted.to_ms = request.end.value if request.end.kind is Kind.TIME else None
    start = request.start
    if found is not None and found.from_ms is not None and start.kind is Kind.TIME:
        start = replace(start, value=found.from_ms)  # `-1h` is what it was in the first run
    partitions = await partitions_of(admin, [spec.topic], spec.partitions)
    manifest = plan_run(
        found,
        wanted,
        await _ranges(admin, partitions, start, request.end, spec),
        await _committed(admin, partitions, spec.group),
    )
    for gap in manifest.gaps:
        if gap.end == manifest.partitions[gap.partition].next:
            complain(
                f"retention has deleted offsets {gap.start} to {gap.end - 1} of {spec.topic}-{gap.partition}"
                " before they were exported"
            )
    encoder, json_columns = _encoder(spec, manifest)
    return ExportRun(folder, manifest, encoder, json_columns, file_max_bytes=request.file_max_bytes)


async def _ranges(
    admin: Admin, partitions: list[TopicPartition], start: Bound, end: Bound, spec: ExportSpec
) -> dict[int, LogRange]:
    committed = spec.isolation == "read_committed"
    lowest = await resolve(admin, partitions, Bound(Kind.BEGINNING), read_committed=committed)
    first = await resolve(admin, partitions, start, read_committed=committed)
    # A time ends nothing: records of that time may lie anywhere before the end.
    stop = Bound(Kind.END) if end.kind is Kind.TIME else end
    last = await resolve(admin, partitions, stop, read_committed=committed)
    return {key.partition: LogRange(lowest[key], first[key], last[key]) for key in partitions}


async def _committed(
    admin: Admin, partitions: list[TopicPartition], group: str | None
) -> dict[int, int] | None:
    if group is None:
        return None
    found: dict[int, int] = {}
    for key, outcome in (await admin.list_group_offsets(group, partitions)).items():
        if isinstance(outcome, BrokerError):
            raise outcome
        if isinstance(outcome, OffsetAndMetadata):
            found[key.partition] = outcome.offset
    return found


def _encoder(spec: ExportSpec, manifest: Manifest) -> tuple[Encoder, Any]:
    folding = Folding(cast(Literal["day", "hour"] | None, spec.partition_by), parse_zone(spec.timezone))
    if spec.format == "jsonl":
        from penstock.cli.record_format import json_line  # which knows the producer; columns do without

        return LineEncoder("jsonl", json_line, folding), None
    if spec.format == "csv":
        return LineEncoder("csv", csv_line, folding, csv_first_line()), None
    from penstock.offline.arrow_files import ArrowEncoder
    from penstock.offline.json_columns import FLATTENED, BadColumns, JsonColumns, parse_columns

    json_columns = None
    if spec.json is not None:
        columns = manifest.json_columns
        if columns is None and spec.json != FLATTENED:
            try:
                columns = parse_columns(spec.json)
            except BadColumns as error:
                raise CalledWrongly(f"--json-columns: {error}") from None
        json_columns = JsonColumns(columns, manifest.json_misfits)
    return ArrowEncoder(spec.format, spec.compression, folding, json_columns), json_columns


async def _export(admin: Admin, consumer: Consumer, run: ExportRun, ports: Environment) -> None:
    manifest = run.manifest
    spec = manifest.spec
    places = {index: each.next for index, each in manifest.partitions.items()}
    total = sum(each.end - each.next for each in manifest.partitions.values())
    with offset_progress(spec.topic, total, ports.clock) as advance:

        def advanced(partition: int, next_offset: int) -> None:
            advance(next_offset - places[partition])
            places[partition] = next_offset

        commit = None if spec.group is None else _commit_of(admin, spec.topic, spec.group, manifest)
        await export(run, _reading(consumer, manifest), ports.threads, commit, advanced)


def _reading(consumer: Consumer, manifest: Manifest) -> NextBatch:
    """All that is to be exported, not decoded: who decodes does the choosing by the window as well."""
    wanted = {index: each for index, each in manifest.partitions.items() if each.next < each.end}
    reading = consumer.read(
        manifest.spec.topic,
        start={index: each.next for index, each in wanted.items()},
        end={index: each.end for index, each in wanted.items()},
        partitions=wanted,
    )
    if manifest.from_ms is not None or manifest.to_ms is not None:
        begin_ms = _ALWAYS.start_ms if manifest.from_ms is None else manifest.from_ms
        end_ms = _ALWAYS.end_ms if manifest.to_ms is None else manifest.to_ms
        reading.narrow(TimeWindow(begin_ms, end_ms))

    async def next_batch() -> ConsumerBatch | None:
        if not wanted:
            return None
        try:
            return await reading.next_unlooked_at()
        except StopAsyncIteration:
            return None

    return next_batch


def _commit_of(admin: Admin, topic: str, group: str, manifest: Manifest) -> Commit:
    async def commit(offsets: Mapping[int, int]) -> None:
        keys = {TopicPartition(topic, index): offset for index, offset in offsets.items()}
        stored = await _committed(admin, list(keys), group)
        assert stored is not None
        for index, offset in stored.items():
            if offset not in (manifest.partitions[index].committed, offsets[index]):
                raise CommandFailed(
                    f"somebody else has moved group {group} to {offset} in {topic}-{index}; what was written is in the manifest"
                )
        for outcome in (await admin.alter_group_offsets(group, keys)).values():
            if outcome is not None:
                raise CommandFailed(
                    f"group {group}: not committed, what was written is in the manifest and the next run commits it: {outcome}"
                ) from outcome

    return commit


def _tell(run: ExportRun, request: ExportRequest, elapsed_s: float) -> None:
    manifest = run.manifest
    if request.as_json:
        print_json(
            {
                "topic": manifest.spec.topic,
                "folder": request.folder,
                "records": run.record_count,
                "total_records": manifest.record_count,
                "total_files": len(manifest.files),
                "total_bytes": manifest.size_bytes,
            }
        )
    speed = (
        f" in {elapsed_s:.2f} s: {run.record_count / elapsed_s:,.0f} records/s" if run.record_count else ""
    )
    click.echo(
        f"penstock: {counted(run.record_count, 'record')} exported{speed}; {request.folder} holds"
        f" {counted(manifest.record_count, 'record')} in {counted(len(manifest.files), 'file')} ({bytes_text(manifest.size_bytes)})",
        err=True,
    )
    for name, count in manifest.json_misfits.items():
        complain(
            f"column {name}: {counted(count, 'value')} of another type; null in the column, whole in value"
        )


__all__ = ["ExportRequest", "run_export"]
