"""`penstock import`: files of an export, or others of the same columns, as records of a topic.

Owns the flags. Reading the files is `penstock.offline.importing`'s, the sending `penstock.cli.import_work`'s.
"""

import click

from penstock.cli.asking import bootstrap_option, real_ports, run_asking
from penstock.cli.import_work import ImportRequest, run_import
from penstock.runtime.environment import Environment


@click.command("import", short_help="Send the records of files to a topic.")
@click.argument("paths", metavar="FILE|DIR...", nargs=-1, required=True)
@click.option("--topic", required=True, help="Where to.")
@click.option(
    "--keep-partitions",
    is_flag=True,
    help="Each record to the partition that it came from.  [default: by its key]",
)
@click.option(
    "--compression",
    type=click.Choice(["none", "gzip", "snappy", "lz4", "zstd"]),
    default="zstd",
    show_default=True,
    help="Of the batches that are sent.",
)
@bootstrap_option
@click.pass_obj
def command(
    environment: Environment | None,
    paths: tuple[str, ...],
    topic: str,
    keep_partitions: bool,
    compression: str,
    bootstrap: str,
) -> int:
    """Send the records of Parquet, Arrow, JSON lines or CSV files, with their keys, headers and timestamps.

    A folder with a manifest means the files that it lists, each checked against its checksum before it is sent; another folder the
    files in it and in its day= and hour= folders, by name. The order within each file is kept. What is run twice is there twice.
    """
    ports = real_ports(environment)
    request = ImportRequest(paths, topic, keep_partitions, compression)

    async def importing() -> int:
        return await run_import(bootstrap, ports, request)

    return run_asking(importing)
