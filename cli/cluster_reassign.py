"""Moves by hand, as `kafka-reassign-partitions` has them: begin, verify, cancel; and all partitions of a topic to named brokers.

Owns the checks of what people name, and what is told. Source: Kafka's `ReassignPartitionsCommand`.
"""

from collections.abc import Sequence

import click

from penstock.cli.asking import end
from penstock.cli.cluster_files import reassignments_text
from penstock.cli.cluster_moves import Work
from penstock.cli.cluster_plan import Plan, Replicas
from penstock.cli.cluster_throttle import clear_throttle, set_throttle
from penstock.cli.cluster_view import ClusterLook, look, progress_of, replicas_text
from penstock.cli.failure import CalledWrongly, CommandFailed
from penstock.client.admin import Admin
from penstock.client.metadata import TopicPartition
from penstock.protocol.errors import ErrorCode


def targets(found: ClusterLook, topic: str, indexes: Sequence[int], to: str) -> Plan:
    """The partitions of a topic, each on the named brokers, with the preferred leaders in turn. Raises CalledWrongly, CommandFailed."""
    replicas = _brokers(to)
    partitions = [each for each in sorted(found.partitions) if each.topic == topic]
    if not partitions:
        raise CommandFailed(f"there is no topic {topic}")
    missing = set(indexes) - {each.partition for each in partitions}
    if missing:
        raise CommandFailed(f"there is no partition {topic}-{min(missing)}")
    chosen = [each for each in partitions if not indexes or each.partition in indexes]
    if len(chosen) == 1:
        return {chosen[0]: replicas}
    turns = [
        replicas[index % len(replicas) :] + replicas[: index % len(replicas)] for index in range(len(chosen))
    ]
    return dict(zip(chosen, turns, strict=True))


def _brokers(text: str) -> Replicas:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise CalledWrongly(f"--to: {text!r} is no list of brokers such as 1,2,3")
    return tuple(int(part) for part in parts)


def checked(found: ClusterLook, plan: Plan) -> Plan:
    """What of a plan changes anything. Raises CommandFailed: a partition or broker that is not there, or a broker that is named twice."""
    for partition, replicas in plan.items():
        if partition not in found.partitions:
            raise CommandFailed(f"there is no partition {partition}")
        if len(set(replicas)) < len(replicas):
            raise CommandFailed(f"{partition}: a broker is named twice in {replicas_text(replicas)}")
        strangers = [node_id for node_id in replicas if node_id not in found.cluster.brokers]
        if strangers:
            raise CommandFailed(f"{partition}: there is no broker {strangers[0]}")
    return {
        partition: replicas for partition, replicas in plan.items() if replicas != found.target(partition)
    }


def chosen(
    by_file: Plan | None, topic: str | None, indexes: Sequence[int]
) -> list[TopicPartition] | str | None:
    """Whose moves are to be cancelled: named partitions, all of a topic, or (None) all there are."""
    if by_file is not None:
        return list(by_file)
    if topic is not None and indexes:
        return [TopicPartition(topic, index) for index in indexes]
    return topic


async def begin(admin: Admin, wanted: Plan, throttle: int | None) -> int:
    """Begin all of it, print what undoes it, and return."""
    found = await look(admin)
    work = Work(found, checked(found, wanted), throttle)
    before = {partition: found.target(partition) for partition in wanted}
    click.echo(f"Current partition replica assignment\n\n{reassignments_text(before)}\n")
    click.echo("Save this to use as the --file option during rollback")
    if throttle is not None and work.coming:
        await set_throttle(admin, found.cluster.brokers, work.coming, throttle)
    outcomes = await admin.alter_partition_reassignments(work.plan) if work.plan else {}
    errors = [error for error in outcomes.values() if error is not None]
    names = ", ".join(
        str(partition) for partition, error in sorted(outcomes.items(), key=str) if error is None
    )
    click.echo(f"begun: {names or 'nothing, all is where it is to be'}")
    end(errors)
    return 0


async def verify(admin: Admin, wanted: Plan) -> int:
    """Tell how far each partition is. When nothing moves any more, the throttle is taken away. 1 while something is not where it is to be."""
    found = await look(admin)
    click.echo("Status of partition reassignment:")
    is_done = True
    for partition, replicas in sorted(wanted.items()):
        line, its_done = _told(found, partition, replicas)
        is_done = is_done and its_done
        click.echo(f"Reassignment of partition {partition} {line}")
    if not found.moves:
        await clear_throttle(admin, found.cluster.brokers, sorted({each.topic for each in wanted}))
    return 0 if is_done else 1


def _told(found: ClusterLook, partition: TopicPartition, replicas: Replicas) -> tuple[str, bool]:
    if partition not in found.partitions:
        return "failed: there is no such partition.", False
    move = found.moves.get(partition)
    if move is not None and move.target == replicas:
        done, whole = progress_of(found, partition, move)
        return f"is still in progress ({100 * done // whole if whole else 0} %).", False
    if move is None and found.target(partition) == replicas:
        return "is completed.", True
    return f"was replaced: its replicas are {replicas_text(found.target(partition))}.", False


async def cancel(admin: Admin, which: Sequence[TopicPartition] | str | None) -> int:
    """Take moves back. When nothing moves any more, the throttle goes as well."""
    moves = await admin.list_partition_reassignments()
    picked = [
        partition
        for partition in sorted(moves)
        if which is None or (partition.topic == which if isinstance(which, str) else partition in which)
    ]
    outcomes = await admin.alter_partition_reassignments(dict.fromkeys(picked)) if picked else {}
    # One that has just come to its end has nothing to take back.
    errors = [
        e for e in outcomes.values() if e is not None and e.code != ErrorCode.NO_REASSIGNMENT_IN_PROGRESS
    ]
    for partition, error in sorted(outcomes.items(), key=str):
        if error is None:
            click.echo(f"{partition} goes back to {replicas_text(moves[partition].origin)}")
    if not picked:
        click.echo("nothing of that is moving")
    if not await admin.list_partition_reassignments():
        nodes = (await admin.describe_brokers()).brokers
        await clear_throttle(admin, nodes, sorted({partition.topic for partition in picked}))
    end(errors)
    return 0


__all__ = ["begin", "cancel", "checked", "chosen", "targets", "verify"]
