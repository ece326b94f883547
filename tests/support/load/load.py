"""A load as a whole: started and stopped together, and a broker held to what it has promised them."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from click.testing import CliRunner
from tests.support import batches
from tests.support.deadline import until
from tests.support.errors import ErrorCode
from tests.support.load import ledger as owed
from tests.support.load.actors import Actor, Committer, Observer, TopicMaker, Trimmer
from tests.support.load.ledger import PartitionLedger
from tests.support.load.writers import Writer
from tests.support.topics import fetch, list_offset
from tests.support.wire import Connection, connect

from penstock.cli.main import cli

LIMIT_S = 60.0


@dataclass
class Load:
    """Actors and their ledgers. `writers` run until `finish`; the others are stopped while the broker is looked at."""

    bootstrap: str
    ledgers: list[PartitionLedger]
    writers: list[Writer]
    others: list[Actor] = field(default_factory=list[Actor])
    may_lose: bool = False
    """A power cut with write.caching=true: whatever was acked may be lost, from some offset on."""
    compared_count: int = 0
    compacted_count: int = 0
    """Records of compacted topics that were acked and have been replaced."""
    _since: dict[tuple[str, int], int] = field(default_factory=dict[tuple[str, int], int])

    @property
    def actors(self) -> Sequence[Actor]:
        """All of them."""
        return [*self.writers, *self.others]

    @property
    def acked_count(self) -> int:
        """Records acked so far."""
        return sum(writer.done_count for writer in self.writers)

    @property
    def refused_count(self) -> int:
        """Refusals that a client was to get over, so far."""
        return sum(actor.refused_count for actor in self.actors)

    def start(self) -> None:
        """Start all."""
        for actor in self.actors:
            actor.start()

    def go_on(self) -> None:
        """Start those again that `rest` stopped."""
        for actor in self.actors if self.may_lose else self.others:
            actor.start()

    def rest(self) -> None:
        """Stop what must not run while the broker is looked at. To be called when the broker is dead: nobody waits then."""
        stopped = self.actors if self.may_lose else self.others
        for actor in stopped:
            actor.stopping.set()
        for actor in stopped:
            actor.stop()
        self.check_alive()

    def check_alive(self) -> None:
        """Raise what ended an actor."""
        for actor in self.actors:
            if actor.failure is not None:
                raise AssertionError(f"{actor.name} failed") from actor.failure

    def await_acks(self, count: int) -> None:
        """Wait until so many more records are acked, and every other actor got something, too."""
        wanted = self.acked_count + count
        others = {actor.name: actor.done_count for actor in self.others if not isinstance(actor, Trimmer)}

        def happened() -> bool:
            self.check_alive()
            return self.acked_count >= wanted and all(
                actor.done_count > others[actor.name] for actor in self.others if actor.name in others
            )

        until(happened, f"{count} more acks ({self.acked_count})", limit_s=LIMIT_S)

    def await_acks_or_all(self, number: int, count: int) -> None:
        """As `await_acks`; before every eighth fault, until all is acked that was sent until now.

        A client takes its time to come back, and would starve where faults come faster than that.
        """
        self.await_acks(count)
        if number % 8 < 7:
            return
        wanted = {writer.name: writer.sent_count for writer in self.writers}

        def happened() -> bool:
            self.check_alive()
            return all(writer.done_count >= wanted[writer.name] for writer in self.writers)

        until(happened, "the acks of all writers", limit_s=LIMIT_S)

    def await_refusals(self, count: int) -> None:
        """Wait until so many more requests are refused."""
        wanted = self.refused_count + count

        def happened() -> bool:
            self.check_alive()
            return self.refused_count >= wanted

        until(happened, f"{count} refusals", limit_s=LIMIT_S)

    def finish(self) -> None:
        """Stop all, and wait until all that was sent is acked."""
        for actor in self.actors:
            actor.stopping.set()
        for actor in self.actors:
            actor.stop()
        for writer in self.writers:
            writer.finish()
        self.check_alive()

    # Holding the broker to it

    def check_after_restart(self) -> None:
        """What came since the last look is there, as acked and seen; then the next look begins behind it. Others are at rest."""
        with connect(self.bootstrap) as connection:
            for ledger in self.ledgers:
                _, end = self._look(connection, ledger, self._since.get((ledger.topic, ledger.index), 0))
                self._since[ledger.topic, ledger.index] = end
            self._check_others(connection)

    def check_all(self) -> None:
        """After `finish`: every record that is owed, and what each writer wrote, in order and once."""
        with connect(self.bootstrap) as connection:
            for ledger in self.ledgers:
                found, _ = self._look(connection, ledger, 0)
                if not ledger.may_compact:
                    self._check_writers(ledger, found)
            self._check_others(connection)

    def _check_others(self, connection: Connection) -> None:
        for actor in self.others:
            if isinstance(actor, Committer):
                committed = functools.partial(actor.check, connection)
                until(committed, f"the offsets of {actor.group}")
            elif isinstance(actor, TopicMaker):
                until(functools.partial(actor.check, connection), "the partitions of what was made")

    def _look(
        self, connection: Connection, ledger: PartitionLedger, since: int
    ) -> tuple[dict[int, bytes], int]:
        """Compare all from `since` on; returns the records and the end."""
        place = {"partition": ledger.index}
        until(lambda: serves(connection, ledger), f"{ledger} served")
        known = ledger.owed()
        end, _ = list_offset(connection, ledger.topic, -1, **place)
        if self.may_lose and end < known.end:
            self._accept_loss(ledger, end)
            since, known = min(since, end), ledger.owed()
        start, _ = list_offset(connection, ledger.topic, -2, **place)
        owed.check_bounds(ledger, known, start, end)
        since = start if ledger.may_compact else max(since, start)
        since, found = read(connection, ledger, since)
        self.compared_count += owed.check_records(ledger, known, found, since)
        if ledger.may_compact:
            owed.check_compacted(ledger, known, found)
            self.compacted_count = max(self.compacted_count, len(known.acked) - len(found))
        return found, since if ledger.may_compact else since + len(found)

    def _accept_loss(self, ledger: PartitionLedger, end: int) -> None:
        ledger.forget_from(end)
        for actor in self.others:
            if isinstance(actor, Observer):
                place = ledger.topic, ledger.index
                actor.positions[place] = min(actor.positions[place], end)

    def _check_writers(self, ledger: PartitionLedger, found: dict[int, bytes]) -> None:
        numbers: dict[str, list[int]] = {}
        for value in found.values():
            name, number = owed.origin_of(value)
            numbers.setdefault(name, []).append(number)
        for writer in self.writers:
            if writer.is_idempotent and ledger in writer.ledgers:
                owed.check_writer(
                    numbers.get(writer.name, ()), ledger, writer.name, may_have_lost=self.may_lose
                )


def serves(connection: Connection, ledger: PartitionLedger) -> bool:
    """Whether the broker leads the partition."""
    wanted = [{"partition_index": ledger.index, "timestamp": -1}]
    topics = [{"name": ledger.topic, "partitions": wanted}]
    reply = connection.request("list_offsets", 7, replica_id=-1, isolation_level=0, topics=topics)
    code = reply.topics[0].partitions[0].error_code
    assert code != ErrorCode.kafka_storage_error, f"{ledger} is offline"
    return bool(code == ErrorCode.none)


def read(connection: Connection, ledger: PartitionLedger, since: int) -> tuple[int, dict[int, bytes]]:
    """All records from `since` to the high watermark of now; from the log's start, if retention has deleted more meanwhile."""
    found: dict[int, bytes] = {}
    position, end = since, None
    while end is None or position < end:
        answer = fetch(connection, ledger.topic, position, partition=ledger.index)
        if answer.error_code == ErrorCode.offset_out_of_range and ledger.may_expire:
            start, _ = list_offset(connection, ledger.topic, -2, partition=ledger.index)
            assert start > position, f"{ledger}: {position} is out of range, and the log begins at {start}"
            return read(connection, ledger, start)
        assert answer.error_code == ErrorCode.none, (
            f"{ledger} at {position}: {ErrorCode(answer.error_code)!r}"
        )
        end = answer.high_watermark if end is None else end
        found.update(each for each in batches.values_of(answer.records) if each[0] >= position)
        if not answer.records:
            break
        position = batches.end_offset_of(answer.records)
    return since, found


def verify(data_directory: Path) -> None:
    """`penstock log verify` of a whole data folder, which must be good."""
    told = CliRunner().invoke(cli, ["log", "verify", str(data_directory)])
    assert told.exit_code == 0, told.output
