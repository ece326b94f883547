"""Members of groups in one program, with a ledger of who owns what at any moment.

The ledger raises when a partition is given to a member while another one in the ledger still has it.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from penstock.client.cluster import Cluster
from penstock.client.connection import ConnectionSettings
from penstock.client.coordinator import Coordinators
from penstock.client.metadata import TopicPartition, parse_bootstrap
from penstock.client.topic_cache import TopicCache
from penstock.consumer.assignors.registry import find_assignors
from penstock.consumer.group_offsets import GroupOffsets
from penstock.consumer.membership import GroupProtocol, Membership, MembershipOptions, make_membership
from penstock.consumer.subscription import Subscription
from penstock.errors import PenstockError
from penstock.runtime.environment import Environment
from penstock.runtime.production import production_environment

Partitions = frozenset[TopicPartition]
NONE: Partitions = frozenset()


class Ledger:
    """Who owns what."""

    def __init__(self) -> None:
        self.owners: dict[TopicPartition, RecordingListener] = {}
        self.changed = trio.Event()
        self.failure: BaseException | None = None

    def fail(self, error: BaseException) -> None:
        """Let whoever waits raise this."""
        self.failure = error
        self._tell()

    def give(self, owner: "RecordingListener", partitions: Partitions) -> None:
        for partition in partitions:
            other = self.owners.get(partition)
            assert other is None, f"{partition} is given to {owner.name} while {other and other.name} has it"
            self.owners[partition] = owner
        self._tell()

    def take(self, owner: "RecordingListener", partitions: Partitions) -> None:
        for partition in partitions:
            assert self.owners.get(partition) is owner, (
                f"{partition} is taken from {owner.name}, who has it not"
            )
            del self.owners[partition]
        self._tell()

    async def until(self, event: Callable[[], bool], limit_s: float = 20.0) -> None:
        """Wait for an event that is looked at whenever the ledger changes."""
        with trio.fail_after(limit_s):
            while not event():
                if self.failure is not None:
                    raise self.failure
                await self.changed.wait()

    def _tell(self) -> None:
        self.changed.set()
        self.changed = trio.Event()


@dataclass
class RecordingListener:
    """Writes into the ledger; `revoke_gate` holds revokes up."""

    ledger: Ledger
    name: str = "member"
    owned: Partitions = NONE
    calls: list[tuple[str, Partitions]] = field(default_factory=list[tuple[str, Partitions]])
    failure: PenstockError | None = None
    ms_since_poll: float | None = None
    polled: trio.Event = field(default_factory=trio.Event)
    revoke_gate: trio.Event | None = None
    on_revoke: Callable[[Partitions], None] = lambda partitions: None

    async def revoke(self, partitions: Partitions) -> None:
        if self.revoke_gate is not None:
            await self.revoke_gate.wait()
        await trio.lowlevel.checkpoint()
        self.on_revoke(partitions)
        self._note("revoke", partitions)
        self.owned -= partitions
        self.ledger.take(self, partitions)

    async def lose(self, partitions: Partitions) -> None:
        self._note("lose", partitions)
        self.owned -= partitions
        self.ledger.take(self, partitions)
        await trio.lowlevel.checkpoint()

    async def assign(self, partitions: Partitions) -> None:
        self._note("assign", partitions)
        self.owned |= partitions
        self.ledger.give(self, partitions)
        await trio.lowlevel.checkpoint()

    def fail(self, error: PenstockError) -> None:
        self.failure = error
        self.ledger.give(self, NONE)  # so that who waits looks again

    async def wait_polled(self) -> None:
        await self.polled.wait()

    def _note(self, call: str, partitions: Partitions) -> None:
        assert partitions, f"{call} of nothing"
        self.calls.append((call, partitions))


class TestMember:
    """One member with connections of its own."""

    __test__ = False

    def __init__(
        self,
        bootstrap: str,
        ledger: Ledger,
        nursery: trio.Nursery,
        environment: Environment,
        *,
        group: str,
        topics: tuple[str, ...] = (),
        pattern: str | None = None,
        protocol: str = "classic",
        assignors: tuple[str, ...] = ("range",),
        name: str = "member",
        session_timeout_ms: int = 6_000,
        heartbeat_interval_ms: int = 200,
        max_poll_interval_ms: int = 20_000,
        metadata_max_age_ms: int = 500,
        group_instance_id: str | None = None,
    ) -> None:
        self.listener = RecordingListener(ledger, name)
        self.cluster = Cluster(
            environment, parse_bootstrap(bootstrap), nursery, ConnectionSettings(client_id=name)
        )
        self.coordinators = Coordinators(self.cluster, environment)
        self.topics = TopicCache(self.cluster, environment, creates_topics=False)
        self.offsets = GroupOffsets(self.coordinators, self.topics, environment)
        options = MembershipOptions(
            group_instance_id=group_instance_id,
            session_timeout_ms=session_timeout_ms,
            heartbeat_interval_ms=heartbeat_interval_ms,
            max_poll_interval_ms=max_poll_interval_ms,
            assignors=find_assignors(assignors),
            metadata_max_age_ms=metadata_max_age_ms,
            pattern_max_age_ms=metadata_max_age_ms,
        )
        self.membership: Membership = make_membership(
            protocol=GroupProtocol(protocol),
            group_id=group,
            subscription=Subscription(frozenset(topics), pattern),
            listener=self.listener,
            cluster=self.cluster,
            coordinators=self.coordinators,
            environment=environment,
            options=options,
        )
        self.scope = trio.CancelScope()

    async def run(self) -> None:
        with self.scope:
            await self.membership.run()

    @property
    def owned(self) -> Partitions:
        return self.listener.owned

    def crash(self) -> None:
        """End without a word; what it had is free for others in the ledger."""
        self.scope.cancel()
        self.cluster.close()
        self.listener.ledger.take(self.listener, self.owned)
        self.listener.owned = NONE


class Members:
    """Makes members that end with the test."""

    def __init__(self, bootstrap: str, nursery: trio.Nursery, environment: Environment) -> None:
        self.ledger = Ledger()
        self._bootstrap = bootstrap
        self._nursery = nursery
        self._environment = environment
        self.all: list[TestMember] = []

    def start(self, **options: Any) -> TestMember:
        """Start one; see TestMember."""
        name = f"member-{len(self.all)}"
        member = TestMember(
            self._bootstrap,
            self.ledger,
            self._nursery,
            self._environment,
            name=name,
            **options,
        )
        self.all.append(member)
        self._nursery.start_soon(member.run)
        return member


@asynccontextmanager
async def members(bootstrap: str, environment: Environment | None = None) -> AsyncGenerator[Members]:
    """Members of groups on a broker; all end when the block is left."""
    async with trio.open_nursery() as nursery:
        group = Members(bootstrap, nursery, environment or production_environment())
        yield group
        for member in group.all:
            assert member.listener.failure is None, f"{member.listener.name}: {member.listener.failure}"
        nursery.cancel_scope.cancel()


def all_partitions(topic: str, count: int) -> Partitions:
    """The partitions of a topic."""
    return frozenset(TopicPartition(topic, index) for index in range(count))
