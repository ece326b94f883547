"""A plan carried out: moves in bounded steps, a progress bar by bytes, the throttle before and the leaders after.

Owns how many partitions move at once and what is told on the way. The cluster moves them by itself: a command that ends loses nothing, and one that is run again
finds what is under way and waits for it, too. Does not know how a plan was made.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import click
import trio

from penstock.cli.asking import counted
from penstock.cli.cluster_plan import Plan, Replicas
from penstock.cli.cluster_throttle import Coming, clear_throttle, set_throttle
from penstock.cli.cluster_view import ClusterLook, look, replicas_text
from penstock.cli.failure import complain
from penstock.cli.interruption import interruptible
from penstock.cli.log_lines import size_text
from penstock.cli.log_progress import ByteProgress, byte_progress
from penstock.cli.output import Column, print_json, print_table
from penstock.client.admin import Admin
from penstock.client.errors import BrokerError, UnknownTopic
from penstock.client.metadata import TopicPartition

AT_ONCE_MAX = 20
"""Partitions that move at once: a move that fails or is slow holds up no more than these, and a cancelled plan leaves few half done."""
LOOK_EVERY_S = 0.5
ANSWER_LIMIT_S = 5.0
"""How long somebody who has pressed Ctrl-C waits for what has begun."""
SHOWN_MAX = 20


@dataclass(frozen=True, slots=True)
class Work:
    """A plan, and what it starts from."""

    start: ClusterLook
    plan: Plan
    throttle: int | None = None

    def added(self, partition: TopicPartition) -> Replicas:
        """Brokers that have to fetch the partition for the plan."""
        return tuple(node for node in self.plan[partition] if node not in self._present(partition))

    def _present(self, partition: TopicPartition) -> Replicas:
        move = self.start.moves.get(partition)
        return move.origin if move is not None else tuple(self.start.partitions[partition].replicas)

    @property
    def coming(self) -> Coming:
        """What is to be throttled: of the plan, and of what moves already."""
        of_plan = {each: (self._present(each), self.added(each)) for each in self.plan if self.added(each)}
        under_way = {each: (move.origin, tuple(move.adding)) for each, move in self.start.moves.items()}
        return {**under_way, **of_plan}

    @property
    def goals(self) -> Mapping[TopicPartition, Replicas]:
        """Where the partitions of the plan, and those that move already, are to be."""
        return {**{each: move.target for each, move in self.start.moves.items()}, **self.plan}

    @property
    def total_bytes(self) -> int:
        """What there is to fetch, for the plan and for what moves already."""
        return sum(self.start.missing_bytes(each, added) for each, (_, added) in self.coming.items())


@dataclass(slots=True)
class Progress:
    """How far it is: pending partitions are in the plan and not begun."""

    pending: list[TopicPartition]
    failed: dict[TopicPartition, BrokerError] = field(default_factory=dict[TopicPartition, BrokerError])
    under_way_count: int = 0
    elsewhere: dict[TopicPartition, Replicas] = field(default_factory=dict[TopicPartition, Replicas])
    """What somebody else has taken back, or sent to other brokers, meanwhile."""


# Showing a plan.


def show_plan(work: Work, *, as_json: bool) -> None:
    """What would move where, and how much it is."""
    if as_json:
        for partition, replicas in sorted(work.plan.items()):
            print_json(
                {
                    "topic": partition.topic,
                    "partition": partition.partition,
                    "from": list(work.start.target(partition)),
                    "to": list(replicas),
                    "bytes": work.start.missing_bytes(partition, work.added(partition)),
                }
            )
        return
    moving = [partition for partition in sorted(work.plan) if work.added(partition)]
    if moving:
        _show_moving(work, moving)
    new_leaders = len(work.plan) - len(moving)
    replica_count = sum(len(work.added(partition)) for partition in moving)
    if moving:
        size = size_text(sum(work.start.missing_bytes(each, work.added(each)) for each in moving))
        click.echo(
            f"\n{counted(replica_count, 'replica')} of {counted(len(moving), 'partition')} would move: {size}"
        )
    if new_leaders:
        click.echo(f"{counted(new_leaders, 'partition')} would get another preferred leader; no data moves")


def _show_moving(work: Work, moving: Sequence[TopicPartition]) -> None:
    rows = [
        (
            partition,
            replicas_text(work.start.target(partition)),
            replicas_text(work.plan[partition]),
            size_text(work.start.missing_bytes(partition, work.added(partition))),
        )
        for partition in moving[:SHOWN_MAX]
    ]
    print_table([Column("PARTITION"), Column("FROM"), Column("TO"), Column("SIZE", is_number=True)], rows)
    if len(moving) > SHOWN_MAX:
        click.echo(f"and {len(moving) - SHOWN_MAX} more")


# Carrying it out.


async def carry_out(admin: Admin, work: Work, *, is_quiet: bool = False) -> int:
    """Do it all; returns the exit code. Ctrl-C leaves the cluster moving what has begun, and says so.

    Raises:
        BrokerError: a throttle could not be set; nothing has begun then.
    """
    if work.throttle is not None and work.coming:
        await set_throttle(admin, work.start.cluster.brokers, work.coming, work.throttle)
    by_size = sorted(work.plan, key=lambda each: (work.start.full_size(each), each))
    progress = Progress(by_size, under_way_count=len(work.start.moves))
    async with interruptible() as interruption:
        with interruption.work(), byte_progress(work.total_bytes, is_shown=not is_quiet) as bar:
            await _move_all(admin, work, progress, bar)
            await _finish(admin, work, progress)
        if interruption.exit_code is not None:
            await _tell_interrupted(admin, progress)
            return interruption.exit_code
    complaints = [str(error) for error in progress.failed.values()]
    for partition, replicas in progress.elsewhere.items():
        goal, now = replicas_text(work.goals[partition]), replicas_text(replicas)
        complaints.append(f"{partition} was to be on {goal}, and is on {now}: somebody else has changed that")
    for complaint in complaints[:SHOWN_MAX]:
        complain(complaint)
    if len(complaints) > SHOWN_MAX:
        complain(f"the same with {len(complaints) - SHOWN_MAX} more")
    return 1 if complaints else 0


async def _move_all(admin: Admin, work: Work, progress: Progress, bar: ByteProgress) -> None:
    done_bytes, total_bytes = 0, work.total_bytes
    while True:
        moves = await admin.list_partition_reassignments()
        begun = progress.pending[: max(0, AT_ONCE_MAX - len(moves))]
        if begun:
            await _begin(admin, work, progress, begun)
            del progress.pending[: len(begun)]
            continue  # moves without data are done by now
        progress.under_way_count = len(moves)
        if not moves:
            return
        now = await look(admin)
        left_bytes = sum(work.start.missing_bytes(each, work.added(each)) for each in progress.pending)
        left_bytes += sum(now.missing_bytes(each, move.adding) for each, move in now.moves.items())
        bar.begin(f"{len(moves)} moving, {len(progress.pending)} to come")
        if total_bytes - left_bytes > done_bytes:
            bar.advance(total_bytes - left_bytes - done_bytes)
            done_bytes = total_bytes - left_bytes
        await trio.sleep(LOOK_EVERY_S)


async def _begin(admin: Admin, work: Work, progress: Progress, partitions: Sequence[TopicPartition]) -> None:
    targets: Mapping[TopicPartition, Replicas] = {each: work.plan[each] for each in partitions}
    for partition, error in (await admin.alter_partition_reassignments(targets)).items():
        if error is not None and not isinstance(error, UnknownTopic):  # a topic that was deleted meanwhile
            progress.failed[partition] = error


async def _finish(admin: Admin, work: Work, progress: Progress) -> None:
    """Give leadership to the new preferred leaders, and take the throttle away."""
    found = await look(admin)
    goals = {
        each: goal
        for each, goal in work.goals.items()
        if each in found.partitions and each not in progress.failed
    }
    progress.elsewhere.update(
        {each: now for each in goals if set(now := found.target(each)) != set(goals[each])}
    )
    settled = goals.keys() - progress.elsewhere.keys()
    if settled:
        for partition, error in (await admin.elect_leaders(sorted(settled))).items():
            if error is not None and not isinstance(error, UnknownTopic):
                progress.failed[partition] = error
    topics = {partition.topic for partition in work.coming}
    await clear_throttle(admin, work.start.cluster.brokers, sorted(topics))


async def _tell_interrupted(admin: Admin, progress: Progress) -> None:
    """The cluster knows best what has begun: the signal may have come before the answer did."""
    with trio.move_on_after(ANSWER_LIMIT_S):
        moves = await admin.list_partition_reassignments()
        progress.under_way_count = len(moves)
        progress.pending = [each for each in progress.pending if each not in moves]
    going_on = counted(progress.under_way_count, "move goes", "moves go")
    click.echo(
        f"{going_on} on in the cluster, {len(progress.pending)} were not begun. The same command picks them up; "
        "`penstock cluster reassign --cancel` takes back what has begun.",
        err=True,
    )


__all__ = ["Work", "carry_out", "show_plan"]
