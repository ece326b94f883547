"""D1, T1, C1, K1, K2: what producers were promised, and what consumers saw, Jepsen's way: a history, and whether it can be explained."""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.simulation.checkers.report import Report


@dataclass(slots=True)
class Sent:
    """One record as its producer knows it."""

    value: str
    key: str
    producer: str
    number: int
    acked: tuple[str, int] | None = None
    """Partition and offset."""


class ProducedRecords:
    """D1, T1: acked means exactly once, at that offset; not acked at most once; in the order of sending for each producer and key."""

    def __init__(self, report: Report, *, is_kept: bool = True, is_exactly_once: bool = True) -> None:
        """`is_kept`: what was acked may not be lost; `is_exactly_once`: nothing may be doubled or out of order."""
        self.is_kept = is_kept
        self._report = report
        self._is_exactly_once = is_exactly_once
        self._sent: dict[str, Sent] = {}
        self.acked_count = 0

    def send(self, value: str, key: str, producer: str, number: int) -> None:
        """About to be sent."""
        self._sent[value] = Sent(value, key, producer, number)

    def ack(self, value: str, place: str, offset: int) -> None:
        """Acked."""
        self._sent[value].acked = (place, offset)
        self.acked_count += 1

    def check_end(self, logs: dict[str, list[tuple[int, str]]], starts: dict[str, int]) -> None:
        """What is in the logs in the end: offsets and values of each partition, and where each log starts."""
        found: dict[str, list[tuple[str, int]]] = {}
        for place, records in logs.items():
            for offset, value in records:
                found.setdefault(value, []).append((place, offset))
        for value in found:
            self._report.check("C1", value in self._sent, f"{value} is in the log and was never sent")
        for sent in self._sent.values():
            self._check_one(sent, found.get(sent.value, []), starts)
        if self._is_exactly_once:
            for place, records in logs.items():
                self._check_order(place, records)

    def _check_one(self, sent: Sent, places: list[tuple[str, int]], starts: dict[str, int]) -> None:
        check = self._report.check
        if self._is_exactly_once:
            check("T1", len(places) <= 1, f"{sent.value} is there more than once: {places}")
        if sent.acked is None or not self.is_kept:
            return
        place, offset = sent.acked
        if offset < starts.get(place, 0):
            return  # deleted by retention
        check(
            "D1",
            sent.acked in places,
            f"{sent.value} was acked at {sent.acked}, and is at {places or 'no place'}",
        )

    def _check_order(self, place: str, records: Sequence[tuple[int, str]]) -> None:
        last: dict[tuple[str, str], tuple[int, str]] = {}
        for _, value in sorted(records):
            sent = self._sent.get(value)
            if sent is None:
                continue
            before, before_value = last.get((sent.producer, sent.key), (-1, ""))
            self._report.check(
                "T1",
                before < sent.number,
                f"{place}: {value} comes behind {before_value}, which was sent later",
            )
            last[sent.producer, sent.key] = (sent.number, value)


class ConsumedRecords:
    """C1: one value for each offset, whoever reads it; a reader's positions strictly increase."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._values: dict[tuple[str, int], str] = {}
        self._positions: dict[tuple[str, str], int] = {}
        self.count = 0

    def restart(self, reader: str, place: str) -> None:
        """A reader begins anew with a partition."""
        self._positions.pop((reader, place), None)

    def read(self, reader: str, place: str, offset: int, value: str, *, is_stable: bool = True) -> None:
        """One record was handed out. `is_stable`: what was visible stays."""
        self.count += 1
        last = self._positions.get((reader, place), -1)
        self._report.check("C1", offset > last, f"{reader} got {place} {offset} after {last}")
        self._positions[reader, place] = offset
        if is_stable:
            before = self._values.setdefault((place, offset), value)
            self._report.check(
                "C1",
                before == value,
                f"{place} {offset} was read as {before}, and now by {reader} as {value}",
            )


class LatestValues:
    """K2: compaction keeps the latest committed value of each key. Keys are written by one producer each, in order."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._acked: dict[tuple[str, str], tuple[int, int]] = {}

    def ack(self, place: str, key: str, number: int, offset: int) -> None:
        """The `number`-th value of a key was acked."""
        before, _ = self._acked.get((place, key), (-1, -1))
        if number > before:
            self._acked[place, key] = (number, offset)

    def check_end(self, place: str, latest: dict[str, tuple[int, int]]) -> None:
        """What is there in the end: number and offset of the last record of each key."""
        for (acked_place, key), (number, offset) in self._acked.items():
            if acked_place == place:
                there = latest.get(key, (-1, -1))
                self._report.check(
                    "K2",
                    there[0] > number or there == (number, offset),
                    f"{place}: the latest acked value of {key} is number {number} at {offset}, and there is {there}",
                )


class LogStarts:
    """K1: a log start offset never falls, and never passes the high watermark."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._known: dict[tuple[str, str], int] = {}

    def seen(self, place: str, replica: str, start_offset: int, high_watermark: int) -> None:
        """`replica` names the process: a restart begins at its checkpoint."""
        before = self._known.get((place, replica), 0)
        self._report.check(
            "K1",
            start_offset >= before,
            f"{place}: {replica}'s log start fell from {before} to {start_offset}",
        )
        self._report.check(
            "K1",
            start_offset <= high_watermark,
            f"{place}: {replica}'s log starts at {start_offset}, above its high watermark {high_watermark}",
        )
        self._known[place, replica] = start_offset


class Sequences:
    """T1, T2: in a log each (producer, epoch, sequence) is there once, and they follow upon each other."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def check_log(self, place: str, batches: Sequence[tuple[int, int, int, int, int]]) -> None:
        """(base offset, producer id, producer epoch, first sequence, record count) of each batch in the order of the log."""
        last: dict[int, tuple[int, int]] = {}
        for offset, producer_id, epoch, sequence, count in batches:
            if producer_id < 0:
                continue
            known = last.get(producer_id)
            if known is not None:
                known_epoch, wanted = known
                self._report.check(
                    "T2",
                    epoch >= known_epoch,
                    f"{place} {offset}: producer {producer_id} goes back to epoch {epoch}",
                )
                if epoch == known_epoch:
                    name = "T1" if sequence < wanted else "T2"
                    self._report.check(
                        name,
                        sequence == wanted,
                        f"{place} {offset}: producer {producer_id} has sequence {sequence}, {wanted} is next",
                    )
            last[producer_id] = (epoch, sequence + count)


__all__ = ["ConsumedRecords", "LatestValues", "LogStarts", "ProducedRecords", "Sequences"]
