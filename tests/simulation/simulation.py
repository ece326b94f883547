"""One simulated cluster from its first start to the last comparison: chaos, quiet, healing, a deadline, and what the checkers say.

outcome = simulate(Options(seed=7))
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import trio
from tests.simulation.bounded import Bounded
from tests.simulation.checkers.clients import Sequences
from tests.simulation.checkers.logs import LogSeen, check_converged, check_prefixes
from tests.simulation.checkers.report import Report, Violation
from tests.simulation.cluster import Cluster
from tests.simulation.host import Host
from tests.simulation.kernel import PROCESS, Kernel
from tests.simulation.logs_read import producer_of, records_of, whole_log
from tests.simulation.nemesis import Nemesis
from tests.simulation.observer import Observer
from tests.simulation.operating import Operator
from tests.simulation.topics import place_of
from tests.simulation.workload import GROUPS, History, Workload

from penstock.broker import keys
from penstock.errors import PenstockError

START_LIMIT_S = 60.0
LOOK_AGAIN_LIMIT_S = 5.0
HEAL_LIMIT_S = 60.0
CALM_AGAIN_S = 5.0
"""After healing brokers start again, and groups find their coordinators."""
LAG_TIME_S = 2.0
LAG_SLACK_S = 8.0
LOOK_S = 0.25
PROPERTIES = {
    "replica_lag_time_max_ms": "2000",
    "replica_fetch_wait_max_ms": "400",
    "replica_fetch_backoff_ms": "300",
}


@dataclass(frozen=True, slots=True)
class Options:
    """All that a run depends on."""

    seed: int
    chaos_s: float = 20.0
    broker_count: int | None = None
    """None: 3 to 5, by the seed."""
    faults: tuple[str, ...] | None = None
    """None: a subset, by the seed."""
    bug: str = ""
    stops_early: bool = False
    """End at the first violation."""
    has_backlog: bool = False
    """Whether there is a topic with a bounded backlog."""


@dataclass(slots=True)
class Outcome:
    """What came of a run."""

    options: Options
    digest: str
    simulated_s: float
    violations: list[Violation]
    violation_count: int
    faults: Counter[str]
    checked: dict[str, int]
    counts: dict[str, int] = field(default_factory=dict[str, int])


class _BugCatcher(logging.Handler):
    """What production code logs with a traceback is a bug, unless a disk or a store has failed it."""

    def __init__(self, report: Report) -> None:
        super().__init__(logging.ERROR)
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        process = PROCESS.get()
        if process is None or process.is_dead or record.exc_info is None or record.exc_info[1] is None:
            return
        if not is_expected(record.exc_info[1]):
            self._report.violate("no bug", f"{process}: {record.getMessage()}: {record.exc_info[1]!r}")


def is_expected(error: BaseException) -> bool:
    """Whether a process may end by it: what the environment did, not a bug."""
    if isinstance(error, BaseExceptionGroup):
        group = cast(BaseExceptionGroup[BaseException], error)
        return all(is_expected(one) for one in group.exceptions)
    return isinstance(error, PenstockError | trio.Cancelled | FileNotFoundError)


@contextmanager
def catching_bugs(report: Report) -> Generator[None]:
    """Take the errors that Penstock logs, and leave the rest of its lines out (they cost time)."""
    logger = logging.getLogger("penstock")
    level, propagate, handlers = logger.level, logger.propagate, logger.handlers[:]
    handler = _BugCatcher(report)
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    logger.handlers[:] = [handler]
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.propagate = propagate
        logger.handlers[:] = handlers


class Simulation:
    """See the module."""

    def __init__(self, options: Options, listener: Callable[[str], None] | None = None) -> None:
        self.options = options
        self.kernel = Kernel(options.seed)
        self.kernel.trace_listener = listener
        self.random = self.kernel.random("simulation")
        count = (
            self.random.choice((3, 3, 3, 3, 3, 4, 5))
            if options.broker_count is None
            else options.broker_count
        )
        self.report = Report(lambda: self.kernel.now, self.kernel.note)
        self.cluster = Cluster(self.kernel, count, **PROPERTIES)
        self.observer = Observer(self.cluster, self.report, lag_limit_s=LAG_TIME_S + LAG_SLACK_S)
        self._operator = Operator(self.cluster, self.observer)
        self.history = History(self.report)
        self.workload = Workload(self.cluster, self.history, self.random)
        self._bounded: Bounded | None = None
        if options.has_backlog:
            self._bounded = self.observer.bounded = self.workload.bound(self.kernel.random("backlog"))
        self.nemesis: Nemesis | None = None
        self._keeping_up = trio.CancelScope()
        self._has_ended = False

    def run(self) -> Outcome:
        """From the start to the end."""
        patch = planted(self.options.bug)
        with catching_bugs(self.report), patch, self.observer.watching():
            self.kernel.run(self._main)
        faults = Counter[str]() if self.nemesis is None else self.nemesis.counts
        return Outcome(
            self.options,
            self.kernel.digest,
            self.kernel.now,
            self.report.violations,
            self.report.count,
            faults,
            self.report.checked,
            {
                "acked": self.history.acked_count,
                "consumed": self.history.consumed.count,
                "commits": self.history.commits.acked_count,
                "assignments": self.history.assignments.assigned_count,
                "admin": self.history.admin_count,
                "elections": self.observer.election_count,
                "ISR changes": self.observer.isr_change_count,
                "refused": 0 if self._bounded is None else self._bounded.refused.count,
                "turns": self.kernel.turn_count,
                "notes": self.kernel.noted_count,
            },
        )

    async def _main(self) -> None:
        with trio.CancelScope() as scope:

            def end() -> None:
                self._has_ended = True
                scope.cancel()

            def stuck(why: str) -> None:
                self.report.violate("liveness", why)
                end()

            self.kernel.stuck_listener = stuck
            if self.options.stops_early:
                self.report.on_violation = end
            await self._live_and_die()

    async def _live_and_die(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.observer.look_around)
            if await self._start(nursery):
                await self._live(nursery)
            self._has_ended = True
            self._keeping_up.cancel()
            for host in (*self.cluster.brokers, *self.cluster.clients):
                host.kill()
            for host in (*self.cluster.brokers, *self.cluster.clients):
                await host.ended.wait()
            nursery.cancel_scope.cancel()

    async def _start(self, nursery: trio.Nursery) -> bool:
        """Brokers and topics, without faults."""
        for host in self.cluster.brokers:
            host.ended.set()
            self.cluster.boot(nursery, host)
        with trio.move_on_after(START_LIMIT_S) as scope:
            for host in self.cluster.brokers:
                await host.started.wait()
            maker = self.cluster.start_client(nursery, "maker", self.workload.create_topics)
            await maker.ended.wait()
            self._check_failure(maker)
        if scope.cancelled_caught:
            self.report.violate("liveness", f"the cluster did not start within {START_LIMIT_S:g} s")
        return not scope.cancelled_caught

    async def _live(self, nursery: trio.Nursery) -> None:
        programs = self.workload.programs()
        nemesis = self.nemesis = Nemesis(
            self.cluster, nursery, self.kernel.random("nemesis"), faults=self.options.faults
        )
        nemesis.excused = self.workload.excuse

        def restart(name: str) -> None:
            host = next(host for host in self.cluster.clients if host.name == name)

            def boot() -> None:
                if not (host.is_up or self._has_ended):
                    host.boot(nursery, programs[name])

            self.kernel.after(1.0, boot)

        nemesis.restart_client = restart
        for name, program in programs.items():
            self.cluster.start_client(nursery, name, program)
        for host in self.cluster.brokers:
            host.before_death.append(partial(self._look_at, host, nursery))
        if self._bounded is not None and nemesis.chosen:
            self._bounded.calm_since_s = math.inf
        nursery.start_soon(self._keep_up, nemesis)
        await nemesis.rage(self.kernel.now + self.options.chaos_s)
        if not nemesis.chosen:
            await trio.sleep(self.options.chaos_s)
        self._check_prefixes()
        nemesis.heal()
        if self._bounded is not None:
            self._bounded.calm_since_s = self.kernel.now + CALM_AGAIN_S
        await trio.sleep(1.0)
        self.workload.is_quiet.set()
        await self._settle(nursery)
        for client in self.cluster.clients:
            self._check_failure(client)
        self._check_end()

    async def _keep_up(self, nemesis: Nemesis) -> None:
        with self._keeping_up:
            await nemesis.keep_up()

    def _look_at(self, host: Host, nursery: trio.Nursery, _: bool) -> None:
        if not self._has_ended:
            nursery.start_soon(self._look_at_death, host)

    async def _look_at_death(self, host: Host) -> None:
        """A broker that ends by itself may do so because of its disk or the store; not by a bug."""
        await host.ended.wait()
        self._check_failure(host)

    def _check_failure(self, host: Host) -> None:
        if host.failure is not None and not is_expected(host.failure):
            self.report.violate("no bug", f"{host.name} ended by {_shown(host.failure)}")

    # Healing

    async def _settle(self, nursery: trio.Nursery) -> None:
        """Wait for what must come about once the faults have ended (liveness), with a deadline."""
        deadline = self.kernel.now + HEAL_LIMIT_S
        has_looked_again = False
        while True:
            await trio.sleep(LOOK_S)
            self._operator.look()
            missing = self._unsettled()
            if not missing:
                break
            if self.kernel.now > deadline:
                if not has_looked_again:
                    has_looked_again = True
                    clerk = self.cluster.start_client(nursery, "clerk", self.workload.clerk())
                    with trio.move_on_after(LOOK_AGAIN_LIMIT_S):
                        await clerk.ended.wait()
                    continue
                self.report.violate("liveness", f"{HEAL_LIMIT_S:g} s after healing: {missing}")
                return
        await trio.sleep(0.1)

    def _unsettled(self) -> str:
        for host in self.cluster.brokers:
            if host.broker is None:
                return f"{host.name} does not run"
        for (topic_id, index), state in sorted(self.observer.states.items()):
            if not self._is_counted(topic_id, index):
                continue
            place = self.observer.place(topic_id, index)
            if state.leader < 0 or set(state.isr) != set(state.replicas):
                return f"{place} is {state}"
            for node in state.replicas:
                partition = self.cluster.by_node(node).broker.partitions.by_id(topic_id, index)  # type: ignore[union-attr]
                if partition is None:
                    return f"{place} is not open on {node}"
                log = partition.log
                if not (
                    partition.high_watermark == log.log_end_offset == self._end(topic_id, index, state.leader)
                ):
                    return f"{place}: {node} has a high watermark of {partition.high_watermark} and an end of {log.log_end_offset}"
        return self._unfinished_clients() or self._outdated_views()

    def _outdated_views(self) -> str:
        for host in self.cluster.brokers:
            behind = "" if host.broker is None else self.observer.views.behind(host.broker.image)
            if behind:
                return f"{host.name} does not know the cluster as it is: {behind}"
        return ""

    def _end(self, topic_id: bytes, index: int, leader: int) -> int:
        broker = self.cluster.by_node(leader).broker
        partition = None if broker is None else broker.partitions.by_id(topic_id, index)
        return -1 if partition is None else partition.log.log_end_offset

    def _is_counted(self, topic_id: bytes, index: int) -> bool:
        """Whether the partition is there: its topic is, and has so many. States beyond that are of an enlargement that did not come to its end."""
        name = self.observer.names.get(topic_id)
        if name is None:
            return False
        key = keys.topic_key(name)
        entry = self.cluster.store.entries.get(key)
        if entry is None:
            return False
        topic = keys.decode_topic(key, entry.value)
        return topic.topic_id == topic_id and index < topic.partition_count

    def _unfinished_clients(self) -> str:
        for host in self.cluster.clients:
            if host.name.startswith("p") and host.is_up:
                return f"producer {host.name} waits for acks"
        for topic in self.workload.topics:
            for index in range(topic.partition_count):
                end = self._end_of(topic.name, index)
                place = place_of(topic.name, index)
                if (
                    topic.name in ("kept", "cached", "plain")
                    and self.history.reader_positions.get(place, 0) < end
                ):
                    return f"the reader is at {self.history.reader_positions.get(place, 0)} of {place}, which ends at {end}"
                if topic.name == "kept":
                    for group in GROUPS:
                        done = self.history.processed.get((group, place), 0)
                        if done < end:
                            return f"{group} has processed {place} up to {done} of {end}"
        return ""

    def _end_of(self, name: str, index: int) -> int:
        for topic_id, known in self.observer.names.items():
            state = self.observer.states.get((topic_id, index))
            if known == name and state is not None:
                return self._end(topic_id, index, state.leader)
        return 0

    # Comparisons

    def _logs(self, topic_id: bytes, index: int) -> dict[str, tuple[LogSeen, list[bytes]]]:
        found: dict[str, tuple[LogSeen, list[bytes]]] = {}
        for host in self.cluster.brokers:
            partition = None if host.broker is None else host.broker.partitions.by_id(topic_id, index)
            if partition is not None and not partition.is_offline:
                found[host.name] = whole_log(host.disk, partition.log)
        return found

    def _places(self) -> list[tuple[bytes, int]]:
        return sorted(key for key in self.observer.states if self._is_counted(*key))

    def _compacts(self, topic_id: bytes) -> bool:
        name = self.observer.names[topic_id]
        return name == "__consumer_offsets" or any(
            t.is_compacted and t.name == name for t in self.workload.topics
        )

    def _check_prefixes(self) -> None:
        """D7, in the middle of it all."""
        for topic_id, index in self._places():
            if not self._compacts(topic_id):
                logs = {name: log for name, (log, _) in self._logs(topic_id, index).items()}
                check_prefixes(self.report, self.observer.place(topic_id, index), logs)

    def _check_end(self) -> None:
        contents: dict[str, dict[str, list[tuple[int, str]]]] = {
            topic.name: {} for topic in self.workload.topics
        }
        starts: dict[str, int] = {}
        for topic_id, index in self._places():
            logs = self._logs(topic_id, index)
            if not logs:
                continue
            place = self.observer.place(topic_id, index)
            if not self._compacts(topic_id):
                seen = {name: log for name, (log, _) in logs.items()}
                check_prefixes(self.report, place, seen)
                check_converged(self.report, place, seen)
                if self.observer.is_kept(topic_id):
                    self.observer.committed.check_end(place, seen)
            self._read_end(topic_id, index, logs, contents, starts)
        for topic in self.workload.topics:
            produced = self.history.produced[topic.name]
            if topic.is_compacted:
                continue
            if topic.is_caching and any(name.startswith("power") for name in self._faults()):
                produced.is_kept = False
            produced.check_end(contents[topic.name], starts)
        if self._bounded is not None:
            self._bounded.refused.check_end(self._values_by_replica(self._bounded.topic.name))

    def _values_by_replica(self, name: str) -> dict[str, list[str]]:
        return {
            f"{host}'s {place_of(name, index)}": [
                (value or b"").decode() for raw in raws for _, _, value in records_of(raw)
            ]
            for topic_id, index in self._places()
            if self.observer.names[topic_id] == name
            for host, (_, raws) in self._logs(topic_id, index).items()
        }

    def _faults(self) -> list[str]:
        return [] if self.nemesis is None else [name for name, count in self.nemesis.counts.items() if count]

    def _read_end(
        self,
        topic_id: bytes,
        index: int,
        logs: dict[str, tuple[LogSeen, list[bytes]]],
        contents: dict[str, dict[str, list[tuple[int, str]]]],
        starts: dict[str, int],
    ) -> None:
        name = self.observer.names[topic_id]
        leader = self.observer.states[topic_id, index].leader
        log, raws = logs.get(f"b{leader}") or next(iter(logs.values()))
        place = place_of(name, index)
        if name not in contents:
            return
        records = [record for raw in raws for record in records_of(raw)]
        contents[name][place] = [(offset, (value or b"").decode()) for offset, _, value in records]
        starts[place] = log.start_offset
        if name == "latest":
            latest: dict[str, tuple[int, int]] = {}
            for offset, key, value in records:
                number = int((value or b"").decode().split(":")[1])
                latest[(key or b"").decode()] = (number, offset)
            self.history.latest.check_end(place, latest)
        elif self.observer.is_kept(topic_id) and not any(
            t.has_retention and t.name == name for t in self.workload.topics
        ):
            Sequences(self.report).check_log(place, [producer_of(raw) for raw in raws])


def planted(bug: str) -> AbstractContextManager[None]:
    """The planted bug of that name; none where it is empty."""
    if not bug:
        return nullcontext()
    from tests.simulation.bugs import BUGS

    return BUGS[bug].planted()


def _shown(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        group = cast(BaseExceptionGroup[BaseException], error)
        return "; ".join(_shown(one) for one in group.exceptions if not isinstance(one, trio.Cancelled))
    return repr(error)


def simulate(options: Options, listener: Callable[[str], None] | None = None) -> Outcome:
    """Run one cluster."""
    return Simulation(options, listener).run()


__all__ = ["Options", "Outcome", "Simulation", "simulate"]
