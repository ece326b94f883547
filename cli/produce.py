"""`penstock produce`: lines of standard input or of files, as records of a topic.

Owns the flags and the end. What a line means is `penstock.cli.record_input`'s, the sending `penstock.cli.produce_work`'s.

Ctrl-C ends the reading: what was read is still sent and waited for, so that the count at the end is true. A second one ends that, too.
"""

from collections.abc import Sequence

import click

from penstock.cli.asking import CLIENT_ID, bootstrap_option, real_ports, run_asking
from penstock.cli.failure import EXIT_FAILED, CalledWrongly
from penstock.cli.interruption import interruptible
from penstock.cli.produce_work import FileSource, Source, StdinSource, Work
from penstock.cli.record_input import ReadLine, keyed_reader, read_json, read_value, unescaped
from penstock.producer.producer import Producer
from penstock.protocol.compression import Codec
from penstock.runtime.environment import Environment

_ACKS = {"all": "all", "-1": "all", "leader": "leader", "1": "leader", "none": "none", "0": "none"}


@click.command("produce", short_help="Send lines as records.")
@click.argument("topic")
@click.option(
    "--file",
    "paths",
    metavar="PATH",
    multiple=True,
    help="Read this file; may be repeated. - is standard input.",
)
@click.option("--json", "as_json", is_flag=True, help="Every line is a JSON object, as above.")
@click.option(
    "--key-separator",
    metavar="TEXT",
    help=r"What stands before it in a line is the key; \t is a tab.",
)
@click.option("--partition", type=click.IntRange(min=0), help="Send all to this partition.")
@click.option(
    "--compression",
    type=click.Choice([codec.name.lower() for codec in Codec]),
    default="none",
    show_default=True,
)
@click.option(
    "--acks",
    type=click.Choice(list(_ACKS)),
    default="all",
    show_default=True,
    metavar="all|leader|none",
    help="Who must have a record before it counts as sent.",
)
@bootstrap_option
@click.pass_obj
def command(
    environment: Environment | None,
    topic: str,
    paths: tuple[str, ...],
    as_json: bool,
    key_separator: str | None,
    partition: int | None,
    compression: str,
    acks: str,
    bootstrap: str,
) -> int:
    """Send every line of standard input, or of files, as a record.

    A line ends with a line feed, which is not part of the value; all else is.

    With --json a line is an object {"key", "value", "headers", "timestamp", "partition"} in the form that
    `penstock consume --json` writes; only the value is needed (null deletes). What is no text goes as "key_base64" or
    "value_base64". Headers are {"name": "value"} or [{"name", "value"}]; the timestamp is in ms since 1970.
    """
    if as_json and key_separator is not None:
        raise CalledWrongly("--json and --key-separator don't go together: JSON has its own key")
    if key_separator == "":
        raise CalledWrongly("--key-separator is empty")
    ports = real_ports(environment)
    read_line: ReadLine = read_value
    if as_json:
        read_line = read_json
    elif key_separator is not None:
        read_line = keyed_reader(unescaped(key_separator).encode())
    sources: Sequence[Source] = [
        StdinSource(ports) if path == "-" else FileSource(ports, path) for path in paths or ("-",)
    ]
    work = Work(topic, partition, sources, read_line, ports.clock)

    async def producing() -> int:
        async with (
            interruptible() as interruption,
            Producer(
                bootstrap, ports, acks=_ACKS[acks], compression=compression, client_id=CLIENT_ID
            ) as producer,
        ):
            await work.run(producer, interruption)
        click.echo(f"penstock: {work.summary(is_acked=_ACKS[acks] != 'none')}", err=True)
        if interruption.exit_code is not None:
            return interruption.exit_code
        return EXIT_FAILED if work.failed_count or work.is_cut_short else 0

    return run_asking(producing)
