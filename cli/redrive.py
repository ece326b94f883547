"""`penstock redrive`: dead letters go back to the topics that they came from.

Owns the flags. The moving is `penstock.cli.redrive_work`'s.
"""

import click

from penstock.cli.asking import bootstrap_option, json_option, real_ports, run_asking
from penstock.cli.failure import CalledWrongly
from penstock.cli.redrive_work import RedriveRequest, run_redrive
from penstock.runtime.environment import Environment


@click.command("redrive", short_help="Move dead letters back.")
@click.argument("topic", metavar="TOPIC.dlq")
@click.option("--to", "target", metavar="TOPIC", help="Where to.  [default: where each came from]")
@click.option(
    "--group",
    metavar="GROUP",
    help="The group whose offsets tell what was moved before.  [default: redrive-of-TOPIC.dlq]",
)
@click.option("--max", "count_max", metavar="N", type=click.IntRange(min=1), help="Move N at most.")
@click.option("--keep-headers", is_flag=True, help="Leave on what tells of the failure.")
@click.option("--dry-run", is_flag=True, help="Only tell what would be moved, and why it is there.")
@json_option
@bootstrap_option
@click.pass_obj
def command(
    environment: Environment | None,
    topic: str,
    target: str | None,
    group: str | None,
    count_max: int | None,
    keep_headers: bool,
    dry_run: bool,
    as_json: bool,
    bootstrap: str,
) -> int:
    """Send the dead letters of a topic back to where they came from, as they were: key, value, time, headers, partition.

    It ends at what is the end at its start. What was moved stays in TOPIC.dlq until retention takes it, and is not moved again: a group's
    committed offsets tell. They follow what is acked, so a run that was killed may have moved up to 500 records that the next one moves again.
    """
    ports = real_ports(environment)
    if target == topic:
        raise CalledWrongly("--to is the topic itself")
    if group == "":
        raise CalledWrongly("--group is empty")
    request = RedriveRequest(
        topic, target, group or f"redrive-of-{topic}", count_max, keep_headers, dry_run, as_json
    )

    async def redriving() -> int:
        return await run_redrive(bootstrap, ports, request)

    return run_asking(redriving)
