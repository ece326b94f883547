"""What a cluster looks like at one moment: brokers, where replicas are and how large, and what is moving how far.

Owns the gathering of it from several answers, and `penstock cluster status`. The answers are not of one instant: what changes between them shows in
the next look.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import click

from penstock.cli.asking import counted
from penstock.cli.cluster_plan import Placement, Replicas
from penstock.cli.log_lines import size_text
from penstock.cli.output import Column, print_json, print_table
from penstock.client.admin import Admin
from penstock.client.errors import BrokerError
from penstock.client.metadata import PartitionMetadata, TopicPartition
from penstock.client.placement_values import ClusterDescription, LogDirectory, Reassignment

TRIES_MAX = 5
SHOWN_MAX = 20
"""Partitions that are shown of those that lack something or move; the rest is counted."""


@dataclass(frozen=True, slots=True)
class ClusterLook:
    """One look. `folders` has the error of a broker that can't be asked."""

    cluster: ClusterDescription
    partitions: Mapping[TopicPartition, PartitionMetadata]
    moves: Mapping[TopicPartition, Reassignment]
    folders: Mapping[int, Sequence[LogDirectory] | BrokerError]

    def size(self, partition: TopicPartition, node_id: int) -> int | None:
        """Bytes of a replica; None where the broker does not tell, or has none (yet)."""
        folders = self.folders.get(node_id)
        if folders is None or isinstance(folders, BrokerError):
            return None
        found = [folder.sizes_bytes[partition] for folder in folders if partition in folder.sizes_bytes]
        return sum(found) if found else None

    def full_size(self, partition: TopicPartition) -> int:
        """Bytes of a whole replica: the leader's, or, without one, the largest that anybody has."""
        leader = self.partitions[partition].leader
        size = self.size(partition, leader)
        if size is not None:
            return size
        return max((self.size(partition, node_id) or 0 for node_id in self.folders), default=0)

    def missing_bytes(self, partition: TopicPartition, node_ids: Iterable[int]) -> int:
        """Bytes that these replicas still have to fetch."""
        full = self.full_size(partition)
        return sum(max(0, full - (self.size(partition, node_id) or 0)) for node_id in node_ids)

    def target(self, partition: TopicPartition) -> Replicas:
        """The replicas when the move under way, if there is one, is done."""
        move = self.moves.get(partition)
        return move.target if move is not None else tuple(self.partitions[partition].replicas)

    @property
    def live(self) -> Mapping[int, str | None]:
        """Brokers that may be given something, with their racks."""
        return {
            node_id: listing.node.rack
            for node_id, listing in sorted(self.cluster.brokers.items())
            if not listing.is_fenced
        }

    def placement(self) -> Placement:
        """What a plan starts from."""
        return Placement(
            self.live,
            {partition: self.target(partition) for partition in sorted(self.partitions)},
            {partition: self.full_size(partition) for partition in self.partitions},
        )

    @property
    def gone(self) -> list[int]:
        """Brokers that are to hold replicas and are not there."""
        named = {node_id for partition in self.partitions for node_id in self.target(partition)}
        return sorted(named - self.cluster.brokers.keys())


async def look(admin: Admin) -> ClusterLook:
    """Ask for everything. A move that begins or ends between two answers is asked for once more, or it would be seen half."""
    cluster = await admin.describe_brokers()
    moves = await admin.list_partition_reassignments()
    for _ in range(TRIES_MAX):
        topics = await admin.list_topics()
        before, moves = moves, await admin.list_partition_reassignments()
        if moves == before:
            break
    else:
        topics = await admin.list_topics()
    partitions = {
        TopicPartition(topic.name, index): partition
        for topic in topics
        for index, partition in topic.partitions.items()
    }
    folders = await admin.describe_log_dirs(cluster.brokers)
    return ClusterLook(
        cluster, partitions, {each: move for each, move in moves.items() if each in partitions}, folders
    )


# How it is shown.


def show(found: ClusterLook, *, as_json: bool) -> None:
    """Print brokers, what partitions lack, and moves."""
    if as_json:
        for row in _broker_rows(found):
            print_json({"broker": row["id"], **{key: value for key, value in row.items() if key != "id"}})
        for partition, move in sorted(found.moves.items()):
            print_json(_move_as_json(found, partition, move))
        for partition, lack in _lacks(found):
            print_json({"topic": partition.topic, "partition": partition.partition, "lack": lack})
        return
    cluster = found.cluster
    controller = cluster.controller_id if cluster.controller_id >= 0 else "none"
    brokers, partitions = (
        counted(len(cluster.brokers), "broker"),
        counted(len(found.partitions), "partition"),
    )
    click.echo(f"cluster {cluster.cluster_id}: {brokers}, controller {controller}, {partitions}\n")
    _show_brokers(found)
    _show_lacks(found)
    _show_moves(found)


def _broker_rows(found: ClusterLook) -> list[dict[str, object]]:
    led: dict[int, int] = {}
    held: dict[int, int] = {}
    for partition in found.partitions.values():
        led[partition.leader] = led.get(partition.leader, 0) + 1
        for node_id in partition.replicas:
            held[node_id] = held.get(node_id, 0) + 1
    rows: list[dict[str, object]] = []
    for node_id in sorted({*found.cluster.brokers, *(node for node in held if node >= 0)}):
        listing = found.cluster.brokers.get(node_id)
        folders = found.folders.get(node_id)
        known = folders if folders is not None and not isinstance(folders, BrokerError) else None
        rows.append(
            {
                "id": node_id,
                "address": str(listing.node.address) if listing else None,
                "rack": listing.node.rack if listing else None,
                "state": _state(found, node_id),
                "leads": led.get(node_id, 0),
                "replicas": held.get(node_id, 0),
                "bytes": None if known is None else sum(sum(f.sizes_bytes.values()) for f in known),
                "free_bytes": None if known is None else sum(f.free_bytes or 0 for f in known),
            }
        )
    return rows


def _state(found: ClusterLook, node_id: int) -> str:
    listing = found.cluster.brokers.get(node_id)
    if listing is None:
        return "gone"
    if isinstance(found.folders.get(node_id), BrokerError):
        return "unreachable"
    if listing.is_fenced:
        return "fenced"
    return "controller" if node_id == found.cluster.controller_id else "up"


def _show_brokers(found: ClusterLook) -> None:
    columns = [
        Column("ID", is_number=True),
        Column("ADDRESS", spared=2),
        Column("RACK", spared=1),
        Column("STATE"),
        Column("LEADS", is_number=True),
        Column("REPLICAS", is_number=True),
        Column("SIZE", is_number=True),
        Column("FREE", is_number=True, spared=3),
    ]

    def sized(value: object) -> str | None:
        return size_text(value) if isinstance(value, int) else None

    rows = [
        (
            *(row[key] for key in ("id", "address", "rack", "state", "leads", "replicas")),
            sized(row["bytes"]),
            sized(row["free_bytes"]),
        )
        for row in _broker_rows(found)
    ]
    print_table(columns, rows)


def _lacks(found: ClusterLook) -> list[tuple[TopicPartition, str]]:
    lacks: list[tuple[TopicPartition, str]] = []
    for name, partition in sorted(found.partitions.items()):
        if partition.leader < 0:
            lacks.append((name, "offline"))
        elif not set(found.moves[name].origin if name in found.moves else partition.replicas) <= set(
            partition.isr
        ):
            lacks.append((name, "under-replicated"))
    return lacks


def _show_lacks(found: ClusterLook) -> None:
    lacks = _lacks(found)
    if not lacks:
        click.echo("\nevery partition has a leader and all its replicas in sync")
        return
    for lack in ("offline", "under-replicated"):
        names = [str(partition) for partition, its in lacks if its == lack]
        if names:
            more = f" and {len(names) - SHOWN_MAX} more" if len(names) > SHOWN_MAX else ""
            click.echo(f"\n{counted(len(names), 'partition')} {lack}: {', '.join(names[:SHOWN_MAX])}{more}")


def _show_moves(found: ClusterLook) -> None:
    if not found.moves:
        return
    click.echo(f"\n{counted(len(found.moves), 'partition')} on the move:")
    columns = [Column("PARTITION"), Column("FROM"), Column("TO"), Column("SIZE", is_number=True)]
    rows: list[tuple[object, ...]] = []
    for partition, move in sorted(found.moves.items())[:SHOWN_MAX]:
        done, whole = progress_of(found, partition, move)
        percent = f"{100 * done // whole} %" if whole else "-"
        rows.append(
            (partition, replicas_text(move.origin), replicas_text(move.target), size_text(whole), percent)
        )
    print_table([*columns, Column("DONE", is_number=True)], rows)
    if len(found.moves) > SHOWN_MAX:
        click.echo(f"and {len(found.moves) - SHOWN_MAX} more")


def progress_of(found: ClusterLook, partition: TopicPartition, move: Reassignment) -> tuple[int, int]:
    """Bytes that the new replicas have, and that they are to have."""
    whole = found.full_size(partition) * len(move.adding)
    return whole - found.missing_bytes(partition, move.adding), whole


def replicas_text(replicas: Iterable[int]) -> str:
    """`1,2,3`, as options and Kafka's tools have it."""
    return ",".join(map(str, replicas))


def _move_as_json(found: ClusterLook, partition: TopicPartition, move: Reassignment) -> dict[str, object]:
    done, whole = progress_of(found, partition, move)
    return {
        "topic": partition.topic,
        "partition": partition.partition,
        "from": list(move.origin),
        "to": list(move.target),
        "bytes": whole,
        "done_bytes": done,
    }


__all__ = ["ClusterLook", "look", "progress_of", "replicas_text", "show"]
