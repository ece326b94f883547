"""Plays a flash sale against a running broker: customers at one end, a database that can take only so much at the other.

Owns the topic, the consumer, the taking of samples and the end: when all that was acked is in the database. What customers do is
`demo_customers`, what the samples mean `demo_scene`.
"""

from collections.abc import Callable

import trio

from penstock.cli.demo_customers import Customer, Outcomes
from penstock.cli.demo_scene import History, Sample, Scene, percentile
from penstock.client.admin import Admin
from penstock.client.admin_values import NewTopic
from penstock.client.metadata import TopicPartition
from penstock.consumer.consumer import Consumer
from penstock.errors import PenstockError
from penstock.runtime.environment import Environment
from penstock.runtime.sqlite_orders import SqliteOrders

CUSTOMERS = 4
SAMPLE_S = 0.1
BITES_PER_S = 20
"""How often the database takes some."""
CATCH_UP_S = 0.2
"""How much of what a busy machine made the database miss it makes up for."""
CLIENT_ID = "penstock-demo"
ASSIGN_LIMIT_S = 30.0


class Play:
    """One scene, from the creation of its topic to its deletion. `memory` tells what the broker has; `show` is called after each sample."""

    def __init__(
        self,
        environment: Environment,
        scene: Scene,
        bootstrap: str,
        topic: str,
        database_path: str,
        memory: Callable[[], int | None],
        show: Callable[[History], None],
    ) -> None:
        self.history = History(scene)
        self._environment = environment
        self._scene = scene
        self._bootstrap = bootstrap
        self._topic = topic
        self._partition = TopicPartition(topic, 0)
        self._group = f"{topic}-database"
        self._database_path = database_path
        self._memory = memory
        self._show = show
        self._outcomes = Outcomes()
        self._stored = 0
        self._committed = 0
        self._begin_s = 0.0
        self._are_customers_gone = False
        self._is_over = trio.Event()

    async def run(self) -> None:
        """Play it to its end; `history` has all of it then. Raises PenstockError. Cancelled, it leaves as little behind as when it is over."""
        threads = self._environment.threads
        async with Admin(self._bootstrap, self._environment, client_id=CLIENT_ID) as admin:
            configs = self._scene.configs
            if configs:
                configs = {**configs, "backlog.groups": self._group}
            created = await admin.create_topics(
                [NewTopic(name=self._topic, partition_count=1, replication_factor=1, configs=configs)]
            )
            failure = created[self._topic]
            if isinstance(failure, PenstockError):
                raise failure
            database = await threads.run(SqliteOrders, self._database_path)
            try:
                await self._play(database)
                places = await threads.run(database.places)
                taken = self._outcomes.taken
                self.history.lost = sum(places.get(offset) != number for offset, number in taken.items())
            finally:
                with trio.move_on_after(5, shield=True):
                    await threads.run(database.close)
                    await admin.delete_topics([self._topic])

    async def _play(self, database: SqliteOrders) -> None:
        assigned, curtain = trio.Event(), trio.Event()

        async def on_assigned(_: object) -> None:
            assigned.set()

        async with (
            Consumer(
                self._bootstrap,
                self._topic,
                environment=self._environment,
                group=self._group,
                auto_offset_reset="earliest",
                auto_commit=False,
                client_id=CLIENT_ID,
                on_assigned=on_assigned,
            ) as consumer,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._store, consumer, database, assigned, curtain)
            await assigned.wait()
            await consumer.commit({self._partition: 0})  # from now on the group counts
            async with trio.open_nursery() as customers:
                for index in range(CUSTOMERS):
                    await customers.start(self._customer(index).run, curtain)
                self._begin_s = self._environment.clock.monotonic()
                nursery.start_soon(self._watch, consumer)
                curtain.set()
            self._are_customers_gone = True
            self._look_whether_over()
            await self._is_over.wait()
            await self._take_sample(consumer)
            nursery.cancel_scope.cancel()

    def _customer(self, index: int) -> Customer:
        return Customer(
            self._scene,
            index,
            CUSTOMERS,
            self._bootstrap,
            self._topic,
            self._environment,
            self._outcomes,
            self._now_s,
        )

    def _now_s(self) -> float:
        return self._environment.clock.monotonic() - self._begin_s

    async def _store(
        self, consumer: Consumer, database: SqliteOrders, assigned: trio.Event, curtain: trio.Event
    ) -> None:
        """The shop's side: a bite of the log at a time into the database, no faster than that goes, and a commit behind it."""
        bite = max(1, self._scene.database_rate // BITES_PER_S)
        clock = self._environment.clock
        free_at = 0.0
        while True:
            batch = await consumer.next_batch(max_records=bite)
            orders = [
                (record.offset, _number_of(record.value or b""), record.value or b"") for record in batch
            ]
            free_at = max(free_at, clock.monotonic() - CATCH_UP_S) + len(orders) / self._scene.database_rate
            await self._environment.threads.run(database.add, orders)
            self._stored += len(orders)
            await consumer.commit({self._partition: batch.next_offset})
            self._committed = batch.next_offset
            self._look_whether_over()
            await trio.sleep(max(0.0, free_at - clock.monotonic()))

    def _look_whether_over(self) -> None:
        if self._are_customers_gone and self._stored >= len(self._outcomes.taken):
            self._is_over.set()

    async def _watch(self, consumer: Consumer) -> None:
        while True:
            await self._take_sample(consumer)
            await trio.sleep(SAMPLE_S)

    async def _take_sample(self, consumer: Consumer) -> None:
        # The end first: commits go on meanwhile, so a backlog over the bound would be one.
        end_offset = (await consumer.end_offsets([self._partition]))[self._partition]
        outcomes, at_s = self._outcomes, self._now_s()
        latencies, outcomes.unseen_latencies_s = outcomes.unseen_latencies_s, []
        p99_s = percentile(latencies, 0.99)
        self.history.samples.append(
            Sample(
                at_s=at_s,
                wanted=int(self._scene.wanted_count(at_s)),
                taken=len(outcomes.taken),
                refused=outcomes.refused,
                stored=self._stored,
                backlog=max(0, end_offset - self._committed),
                p99_ms=None if p99_s is None else p99_s * 1000,
                memory_bytes=self._memory(),
            )
        )
        self.history.latencies_s = outcomes.latencies_s
        self.history.refusal_latencies_s = outcomes.refusal_latencies_s
        self.history.failed = outcomes.failed
        self._show(self.history)


def _number_of(body: bytes) -> int:
    return int(body[len(b'{"order": ') : body.index(b",")])


__all__ = ["Play"]
