"""`penstock log repair`: show what is damaged and what each way to mend it would lose, and do one of them when told to.

Owns the plan's look and that nothing is done without a way and `--yes`. What is damaged and what is done, `penstock.storage.repair_plan` and
`repair` know.
"""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import click

from penstock import __version__
from penstock.cli.asking import counted
from penstock.cli.failure import CalledWrongly, CommandFailed
from penstock.cli.log_lines import size_text
from penstock.cli.log_places import PartitionFolder, SegmentFile, place_of
from penstock.cli.log_progress import byte_progress
from penstock.cli.log_verify import json_option
from penstock.cli.output import Column, json_text, print_table
from penstock.runtime.files import FileSystem
from penstock.runtime.posix_files import PosixFileSystem
from penstock.runtime.system_clock import SystemClock
from penstock.storage.checkpoint import TopicPartition
from penstock.storage.data_directory import lock_directory
from penstock.storage.layout import LOG_START_CHECKPOINT, META_PROPERTIES, partition_directory_name
from penstock.storage.repair import Repair
from penstock.storage.repair_plan import Loss, RepairPlan, Way, plan_repair, ways
from penstock.storage.survey import Damage
from penstock.storage.verify_folder import DataFolder, log_bytes, look_into

_MEANINGS = {
    Way.CUT: "ends the log where the damage begins: what is good behind it goes too, and offsets are given out again",
    Way.SKIP: "takes out what is damaged: the rest stays where it is, and consumers pass over the place",
    Way.QUARANTINE: "moves the whole log aside: the partition goes on, empty, at its end",
}


@click.command()
@click.argument("path", metavar="PATH")
@click.option("--cut", "way", flag_value="cut", help="End the log where the damage begins.")
@click.option("--skip", "way", flag_value="skip", help="Take out what is damaged, keep all that is good.")
@click.option(
    "--quarantine", "way", flag_value="quarantine", help="Move the log aside, go on empty at its end."
)
@click.option("--yes", is_flag=True, help="Do it; else only the plan is shown.")
@json_option
def repair(path: str, way: str | None, yes: bool, as_json: bool) -> None:
    """Mend a damaged partition: show what each way would lose, and with --yes do one.

    PATH is a partition's folder in a data folder; for a whole data folder every damaged partition's plan is shown. No
    broker may be running on it. Whatever is taken out of a log is kept in the data folder, under
    repaired/, with a report.json that says what it was.
    """
    if yes and way is None:
        raise CalledWrongly("--yes needs one of --cut, --skip and --quarantine")
    files = PosixFileSystem()
    data_folder, keys = _chosen(files, path)
    if yes and len(keys) != 1:
        raise CalledWrongly("--yes takes one partition's folder at a time")
    lock = lock_directory(files, data_folder)
    try:
        folder = look_into(files, data_folder)
        folder.is_in_use = False  # it is this process that holds the lock
        for fault in folder.faults:
            if fault.path.endswith(LOG_START_CHECKPOINT):  # without it nobody knows where the logs begin
                raise CommandFailed(f"{fault.path}: {fault.reason}")
        plans = _plans(files, folder, keys, as_json=as_json)
        chosen = Way(way) if way is not None else None
        if yes and chosen is not None:
            _carry_out(files, plans, chosen, as_json=as_json)
        else:
            _show(path, plans, chosen, as_json=as_json)
    finally:
        lock.release()


def _chosen(files: FileSystem, path: str) -> tuple[str, Sequence[TopicPartition]]:
    """The data folder and the partitions in it."""
    place = place_of(files, path)
    if isinstance(place, SegmentFile):
        raise CommandFailed(f"{path}: repair takes a partition's folder, or a data folder")
    if isinstance(place, PartitionFolder):
        key = place.key
        if key is None:
            raise CommandFailed(f"{path}: not named as a partition's folder is")
        data_folder = place.data_folder
        keys: Sequence[TopicPartition] = (key,)
    else:
        data_folder, keys = place.path, place.partitions
    if not files.exists(f"{data_folder}/{META_PROPERTIES}"):
        raise CommandFailed(f"{data_folder}: no data folder, it has no {META_PROPERTIES}")
    return data_folder, keys


def _plans(
    files: FileSystem, folder: DataFolder, keys: Sequence[TopicPartition], *, as_json: bool
) -> list[RepairPlan]:
    """The plans of those partitions that need one."""
    total_bytes = 0 if as_json else sum(log_bytes(files, folder.directory(key)) for key in keys)
    found: list[RepairPlan] = []
    with byte_progress(total_bytes, is_shown=not as_json) as progress:
        for key in keys:
            progress.begin(partition_directory_name(*key))
            plan = plan_repair(files, folder, key, progress=progress.advance)
            if plan.is_needed:
                found.append(plan)
    return found


def _carry_out(files: FileSystem, plans: Sequence[RepairPlan], way: Way, *, as_json: bool) -> None:
    if not plans:
        raise CommandFailed("nothing is damaged, so nothing was done")
    (plan,) = plans
    reason = plan.why_not(way)
    if reason:
        raise CommandFailed(f"--{way} is not possible: {reason}")
    loss = plan.loss(way)
    now_ms = SystemClock().wall_ms()
    # Kafka's tools take a folder name with a number behind its last dash for a partition: this ends with a letter.
    name = datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
    work = Repair(files, plan, way, now_ms=now_ms, time_name=name)
    work.carry_out(version=__version__)
    if as_json:
        click.echo(json_text({**_plan_as_json(plan), "done": way.value, "kept_in": work.kept_directory}))
        return
    click.echo(
        f"{partition_directory_name(*plan.key)}: repaired by {way.value}: {counted(loss.offset_count, 'offset')} lost, "
        f"the log is [{loss.log_start_offset}, {loss.log_end_offset}) now; what was taken out is in {work.kept_directory}"
    )


def _show(path: str, plans: Sequence[RepairPlan], way: Way | None, *, as_json: bool) -> None:
    if as_json:
        for plan in plans:
            click.echo(json_text(_plan_as_json(plan)))
    elif not plans:
        click.echo(
            "nothing is damaged; what a broker mends by itself when it starts is none of this command's business"
        )
    for number, plan in enumerate([] if as_json else plans):
        if number:
            click.echo()
        _show_plan(plan, way)
    sys.stdout.flush()
    if plans and not as_json:
        folder = plans[0].directory if len(plans) == 1 else f"{path.rstrip('/')}/TOPIC-PARTITION"
        click.echo(
            f"\nnothing was done; to do it, name a way: penstock log repair {folder} --{way or Way.SKIP} --yes"
        )


def _show_plan(plan: RepairPlan, way: Way | None) -> None:
    click.echo(
        f"{plan.directory}: offsets {plan.log_start_offset} to {plan.log_end_offset - 1}, "
        f"{counted(plan.batch_count, 'good batch', 'good batches')}"
    )
    for damage in plan.damages:
        click.echo(f"  {_damage_text(damage, is_restored=damage in plan.restored)}")
    for fault in plan.damaged_files:
        click.echo(f"  {fault.path}: {fault.reason}; it is moved aside, and the broker makes it anew")
    columns = [
        Column("WAY"),
        *(
            Column(title, is_number=True)
            for title in ("OFFSETS LOST", "GOOD BATCHES LOST", "RECORDS IN THEM")
        ),
        Column("TAKEN OUT", is_number=True),
        Column("LOG AFTER"),
    ]
    rows = [_way_row(each, loss) for each, loss in ways(plan) if way in (None, each)]
    click.echo()
    print_table(columns, rows)
    click.echo()
    for each in Way:
        if way in (None, each):
            click.echo(f"--{each.value:<11} {_MEANINGS[each]}")


def _damage_text(damage: Damage, *, is_restored: bool) -> str:
    where = f"{damage.path} at {damage.position}"
    if damage.size_bytes:
        where += f", {counted(damage.size_bytes, 'byte')}"
    count = damage.next_offset - damage.offset
    lost = (
        f"offset {damage.offset} is"
        if count == 1
        else f"offsets {damage.offset} to {damage.next_offset - 1} are"
    )
    if is_restored:
        lost = "only its header was hurt: --skip restores it"
    else:
        lost += " lost"
    return f"{where}: {damage.reason}; {lost}"


def _way_row(way: Way, loss: Loss | str) -> Sequence[object]:
    if isinstance(loss, str):
        return (f"--{way.value}", None, None, None, None, f"not possible: {loss}")
    return (
        f"--{way.value}",
        loss.offset_count,
        loss.good_batch_count,
        loss.good_record_count,
        size_text(loss.size_bytes),
        f"{loss.log_start_offset} to {loss.log_end_offset - 1}"
        if loss.log_end_offset > loss.log_start_offset
        else f"empty at {loss.log_end_offset}",
    )


def _plan_as_json(plan: RepairPlan) -> dict[str, object]:
    return {
        "path": plan.directory,
        "topic": plan.key[0],
        "partition": plan.key[1],
        "log_start_offset": plan.log_start_offset,
        "log_end_offset": plan.log_end_offset,
        "damages": [
            {
                "path": damage.path,
                "position": damage.position,
                "end_position": damage.end_position,
                "offset": damage.offset,
                "next_offset": damage.next_offset,
                "reason": damage.reason,
                "is_restored_by_skip": damage in plan.restored,
            }
            for damage in plan.damages
        ],
        "damaged_files": [{"path": fault.path, "reason": fault.reason} for fault in plan.damaged_files],
        "ways": {
            way.value: {"not_possible": loss}
            if isinstance(loss, str)
            else {
                "offsets_lost": loss.offset_count,
                "good_batches_lost": loss.good_batch_count,
                "good_records_lost": loss.good_record_count,
                "size_bytes": loss.size_bytes,
                "log_start_offset": loss.log_start_offset,
                "log_end_offset": loss.log_end_offset,
            }
            for way, loss in ways(plan)
        },
    }


__all__ = ["repair"]
