"""`penstock export`: a topic, a day of it, or what a group has not had yet, as files.

Owns the flags. The steps that make each record be there exactly once are `penstock.offline.exporting`'s, finding out what there is to do
`penstock.cli.export_work`'s.
"""

from typing import Literal

import click

from penstock.cli.asking import bootstrap_option, json_option, real_ports, run_asking
from penstock.cli.bounds import BOUND_HELP, Bound, Kind, parse_bound
from penstock.cli.export_work import ExportRequest, run_export
from penstock.cli.failure import CalledWrongly, CommandFailed
from penstock.cli.group_reset import parse_partitions
from penstock.cli.moments import parse_day, parse_zone
from penstock.offline.manifest import ExportSpec
from penstock.runtime.environment import Environment

COMPRESSIONS = {
    "parquet": ("zstd", "snappy", "gzip", "lz4", "none"),
    "arrow": ("zstd", "lz4", "none"),
    "jsonl": ("none",),
    "csv": ("none",),
}
"""By format; the first is the default."""


@click.command("export", short_help="Write a topic into files.")
@click.argument("topic")
@click.option("--out", "folder", metavar="DIR", required=True, help="The folder; one export each.")
@click.option(
    "--format",
    "format_name",
    type=click.Choice(list(COMPRESSIONS)),
    default="parquet",
    show_default=True,
)
@click.option("--day", metavar="DATE", help="Only records with timestamps of this day, e.g. 2015-07-29.")
@click.option("--from", "start", metavar="WHERE", help=f"From here on: {BOUND_HELP}.  [default: beginning]")
@click.option("--to", "end", metavar="WHERE", help="Before this.  [default: what is the end now]")
@click.option(
    "--group", metavar="GROUP", help="What this group has not consumed; its offsets follow what was written."
)
@click.option(
    "--partition-by",
    type=click.Choice(["day", "hour"]),
    help="Folders by the time of records: day=2015-07-29/.",
)
@click.option(
    "--timezone",
    "--tz",
    "zone",
    metavar="ZONE",
    default="UTC",
    show_default=True,
    help="Of days, hours, and times that name none.",
)
@click.option(
    "--partition", "partitions", metavar="N,…", multiple=True, help="Only these partitions: 0,2,5-7."
)
@click.option(
    "--isolation",
    type=click.Choice(["read_committed", "read_uncommitted"]),
    default="read_committed",
    show_default=True,
    help="Whether records of open and aborted transactions are left out.",
)
@click.option(
    "--compression",
    type=click.Choice(["zstd", "snappy", "gzip", "lz4", "none"]),
    help="Within the files.  [default: zstd for parquet and arrow]",
)
@click.option(
    "--json-columns", metavar="NAME[:TYPE],…", help="Fields of JSON values as columns of their own."
)
@click.option("--flatten-json", is_flag=True, help="The fields that the first JSON values have as columns.")
@click.option(
    "--max-file-bytes",
    metavar="BYTES",
    type=click.IntRange(min=1),
    default=512 * 1024 * 1024,
    show_default=True,
    help="Of records in memory before files are ended, and the manifest says so.",
)
@json_option
@bootstrap_option
@click.pass_obj
def command(
    environment: Environment | None,
    topic: str,
    folder: str,
    format_name: str,
    day: str | None,
    start: str | None,
    end: str | None,
    group: str | None,
    partition_by: Literal["day", "hour"] | None,
    zone: str,
    partitions: tuple[str, ...],
    isolation: Literal["read_committed", "read_uncommitted"],
    compression: str | None,
    json_columns: str | None,
    flatten_json: bool,
    max_file_bytes: int,
    as_json: bool,
    bootstrap: str,
) -> int:
    """Write the records of a topic into files in DIR, each record once.

    It ends at what is the end at its start. Run again in the same folder it goes on where it was interrupted; after it was complete it
    adds what is new. DIR/_manifest.json lists the files, with offsets and checksums; what is not in it does not count.
    """
    ports = real_ports(environment)
    chosen = [index for text in partitions for index in parse_partitions(text, "--partition")]
    spec = ExportSpec(
        topic,
        format_name,
        _compression(format_name, compression),
        partition_by,
        zone,
        group,
        day,
        start,
        end,
        tuple(sorted(set(chosen))) or None,
        isolation,
        _json(format_name, json_columns, flatten=flatten_json),
    )
    begin, stop = _bounds(spec, ports.clock.wall_ms())
    if format_name in ("parquet", "arrow"):
        _require_pyarrow(format_name)
    request = ExportRequest(spec, begin, stop, folder, max_file_bytes, as_json)

    async def exporting() -> int:
        return await run_export(bootstrap, ports, request)

    return run_asking(exporting)


def _bounds(spec: ExportSpec, now_ms: int) -> tuple[Bound, Bound]:
    time_zone = parse_zone(spec.timezone)
    if spec.group == "":
        raise CalledWrongly("--group is empty")
    if spec.group is not None and (spec.day or spec.start or spec.end):
        raise CalledWrongly(
            "--group says from where to where; it goes with neither --day nor --from nor --to"
        )
    if spec.day is not None:
        if spec.start is not None or spec.end is not None:
            raise CalledWrongly("--day goes with neither --from nor --to")
        first_ms, next_ms = parse_day(spec.day, time_zone)
        return Bound(Kind.TIME, first_ms), Bound(Kind.TIME, next_ms)
    begin, stop = Bound(Kind.BEGINNING), Bound(Kind.END)
    if spec.start is not None:
        begin = parse_bound(spec.start, now_ms=now_ms, zone=time_zone, option="--from")
    if spec.end is not None:
        stop = parse_bound(spec.end, now_ms=now_ms, zone=time_zone, option="--to")
    if begin.kind is Kind.STORED:
        raise CalledWrongly("--from stored is what --group means")
    if stop.kind not in (Kind.OFFSET, Kind.TIME, Kind.END):
        raise CalledWrongly("--to is an offset, a time, or end")
    return begin, stop


def _compression(format_name: str, asked: str | None) -> str:
    known = COMPRESSIONS[format_name]
    if asked is not None and asked not in known:
        raise CalledWrongly(f"--compression: {format_name} has {', '.join(known)}")
    return asked or known[0]


def _json(format_name: str, columns: str | None, *, flatten: bool) -> str | None:
    if columns is None and not flatten:
        return None
    if format_name not in ("parquet", "arrow"):
        raise CalledWrongly("--json-columns and --flatten-json are for parquet and arrow")
    if columns is not None and flatten:
        raise CalledWrongly("--json-columns and --flatten-json don't go together")
    return "*" if columns is None else columns


def _require_pyarrow(format_name: str) -> None:
    try:
        from penstock.offline.arrow_tables import load

        load()
    except ImportError:
        raise CommandFailed(
            f"{format_name} needs pyarrow: pip install 'penstock[parquet]'; jsonl and csv need nothing"
        ) from None
