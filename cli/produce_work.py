"""The work of `penstock produce`: reads lines, sends them as records, counts what was acked, and tells what was not.

Owns the order (reading and sending side by side, a chunk of lines each, the order of the lines kept in each partition) and the counts. Knows no
flags.

A record that can't be, or that the broker refuses, is told with its line, and the others go on; when nothing can be sent at all, the reading ends.
"""

import re
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import trio

from penstock.cli.asking import counted
from penstock.cli.failure import CommandFailed, complain
from penstock.cli.interruption import Interruption
from penstock.cli.output import bytes_text
from penstock.cli.record_input import BadLine, LineCutter, Outgoing, ReadLine, read_value
from penstock.client.errors import AuthorizationFailed, BrokerError, ProducerFenced, UnknownTopic
from penstock.errors import PenstockError
from penstock.producer.producer import OutgoingRecord, Producer
from penstock.runtime.clock import Clock
from penstock.runtime.environment import Environment
from penstock.runtime.standard_streams import StandardInput

_CHUNK_BYTES = 256 * 1024
_CHUNK_RECORDS_MAX = 4096
_LINE_MAX_BYTES = 64 * 1024 * 1024
_COMPLAINTS_MAX = 20
_REFRESH_S = 0.1
_COUNTS_NOTE = re.compile(r"(\d+) records of this send_many were acked, (\d+) were taken and not acked")


class Source(Protocol):
    """Where lines come from."""

    @property
    def name(self) -> str:
        """A file's path; empty for standard input."""
        ...

    @property
    def size_bytes(self) -> int | None:
        """None where it is not known."""
        ...

    async def read(self) -> bytes:
        """The next bytes; nothing at the end."""
        ...


class StdinSource:
    """Standard input."""

    name = ""
    size_bytes: int | None = None

    def __init__(self, ports: Environment) -> None:
        self._stream = StandardInput(sys.stdin.fileno(), ports.threads)

    async def read(self) -> bytes:
        """The next bytes; nothing at the end."""
        return await self._stream.read(_CHUNK_BYTES)


class FileSource:
    """What a path names: a file, or a pipe such as the shell's `<(…)`. Raises CommandFailed where it can't be opened."""

    def __init__(self, ports: Environment, path: str) -> None:
        self.name = path
        try:
            self._file = ports.files.open(path)
            self.size_bytes: int | None = self._file.size() or None  # a pipe has none to tell
        except FileNotFoundError:
            raise CommandFailed(f"{path}: no such file") from None
        self._stream = StandardInput(self._file.fileno(), ports.threads, name=path)

    async def read(self) -> bytes:
        """The next bytes; nothing at the end."""
        return await self._stream.read(_CHUNK_BYTES)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Records of one source, with the number of each one's line."""

    source: str
    records: Sequence[Outgoing]
    lines: Sequence[int]

    @property
    def place(self) -> str:
        """`line 7`, `lines 7 to 12`, with a file's name before it."""
        first, last = self.lines[0], self.lines[-1]
        name = f"{self.source}: " if self.source else ""
        return f"{name}line {first}" if first == last else f"{name}lines {first} to {last}"

    def behind(self, index: int) -> "Chunk":
        """What is left of it behind a record."""
        return Chunk(self.source, self.records[index + 1 :], self.lines[index + 1 :])


@dataclass(slots=True)
class Work:
    """One run. The counts are of records."""

    topic: str
    partition: int | None
    sources: Sequence[Source]
    read_line: ReadLine
    clock: Clock
    acked_count: int = 0
    acked_bytes: int = 0
    failed_count: int = 0
    elapsed_s: float = 0.0
    is_hopeless: bool = False
    """Nothing can be sent any more."""
    is_cut_short: bool = False
    """Some input could not be read to its end."""
    _complaint_count: int = 0
    _advance: Callable[[int], None] = field(default=lambda count: None)

    async def run(self, producer: Producer, interruption: Interruption) -> None:
        """Read and send until the input ends, or a signal comes, or nothing can be sent any more.

        Raises PenstockError where nothing can be sent from the start.
        """
        with interruption.work():
            await self._check_partition(producer)
        if interruption.exit_code is not None:
            return
        begin_s = self.clock.monotonic()
        sender, receiver = trio.open_memory_channel[Chunk](1)
        with progress(self.sources, self.clock) as self._advance:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read_all, sender, interruption.work())
                async for chunk in receiver:
                    await self._send(producer, chunk)
                    if self.is_hopeless:
                        nursery.cancel_scope.cancel()
        self.elapsed_s = self.clock.monotonic() - begin_s

    async def _check_partition(self, producer: Producer) -> None:
        try:
            count = await producer.partition_count(self.topic)
        except UnknownTopic as error:
            raise CommandFailed(f"{error}; penstock topic create {self.topic} makes it") from error
        if self.partition is not None and self.partition >= count:
            raise CommandFailed(
                f"topic {self.topic} has no partition {self.partition}, only 0 to {count - 1}"
            )

    async def _read_all(self, channel: trio.MemorySendChannel[Chunk], scope: trio.CancelScope) -> None:
        async with channel:
            with scope:
                for source in self.sources:
                    try:
                        await self._read(source, channel)
                    except BadLine as error:
                        self._fail(1, f"{source.name}: {error}" if source.name else str(error))
                    except PenstockError as error:  # names its file, and is no record that failed
                        self.is_cut_short = True
                        complain(str(error))

    async def _read(self, source: Source, channel: trio.MemorySendChannel[Chunk]) -> None:
        cutter = LineCutter(_LINE_MAX_BYTES)
        number = 1
        while True:
            data = await source.read()
            lines = cutter.feed(data)
            for start in range(0, len(lines), _CHUNK_RECORDS_MAX):
                part = lines[start : start + _CHUNK_RECORDS_MAX]
                chunk = self._chunk(source.name, part, number)
                number += len(part)
                if chunk.records:
                    await channel.send(chunk)
            self._advance(len(data))
            if not data:
                return

    def _chunk(self, source: str, lines: Sequence[bytes], first: int) -> Chunk:
        if self.read_line is read_value:
            return Chunk(source, lines, range(first, first + len(lines)))
        records: list[Outgoing] = []
        numbers: list[int] = []
        for number, line in enumerate(lines, first):
            try:
                records.append(self.read_line(line))
                numbers.append(number)
            except BadLine as error:
                self._fail(1, f"{Chunk(source, (), (number,)).place}: {error}")
        return Chunk(source, records, numbers)

    async def _send(self, producer: Producer, chunk: Chunk) -> None:
        while chunk.records:
            try:
                await producer.send_many(self.topic, chunk.records, partition=self.partition)
            except ValueError as error:
                chunk = self._without_the_impossible(chunk, error)
            except PenstockError as error:
                self._refused(chunk, error)
                return
            else:
                self._acked(chunk.records)
                return

    def _without_the_impossible(self, chunk: Chunk, error: ValueError) -> Chunk:
        """One record can't be (too large, no such partition): tell of it. Those before it are sent; those behind it come out."""
        if isinstance(chunk.records[0], bytes):
            # All values of such a run are checked before the first is taken; one by one it shows which it was.
            return Chunk(chunk.source, [OutgoingRecord(value) for value in _values(chunk)], chunk.lines)
        acked_count, unacked_count = send_many_counts(error)
        index = acked_count + unacked_count
        self._acked(chunk.records[:acked_count])
        self._fail(1 + unacked_count, f"{Chunk(chunk.source, (), (chunk.lines[index],)).place}: {error}")
        return chunk.behind(index)

    def _refused(self, chunk: Chunk, error: PenstockError) -> None:
        """The broker refused records, or nobody acked them. Those of a chunk share their batches, so which of them can't be told."""
        acked_count, _ = send_many_counts(error)
        self._acked(chunk.records[:acked_count])
        lost_count = len(chunk.records) - acked_count
        what = (
            ""
            if len(chunk.records) == 1
            else f"{lost_count} of {len(chunk.records)} records were not acked: "
        )
        self._fail(lost_count, f"{chunk.place}: {what}{error}")
        self.is_hopeless = not isinstance(error, BrokerError) or isinstance(
            error, UnknownTopic | AuthorizationFailed | ProducerFenced
        )

    def _acked(self, records: Sequence[Outgoing]) -> None:
        self.acked_count += len(records)
        self.acked_bytes += sum(map(_size_bytes, records))

    def _fail(self, count: int, message: str) -> None:
        self.failed_count += count
        self._complaint_count += 1
        if self._complaint_count <= _COMPLAINTS_MAX:
            complain(message)
        elif self._complaint_count == _COMPLAINTS_MAX + 1:
            complain("more records failed; they are only counted from here on")

    def summary(self, *, is_acked: bool) -> str:
        """How much there was, how fast, and what failed."""
        done = "acked" if is_acked else "sent, with nobody asked to ack,"
        text = f"{counted(self.acked_count, 'record')} {done} ({bytes_text(self.acked_bytes)})"
        if self.acked_count and self.elapsed_s > 0:
            text += (
                f" in {self.elapsed_s:.2f} s: {self.acked_count / self.elapsed_s:,.0f} records/s,"
                f" {bytes_text(self.acked_bytes / self.elapsed_s)}/s"
            )
        return text + (f"; {counted(self.failed_count, 'record')} failed" if self.failed_count else "")


def _values(chunk: Chunk) -> Iterator[bytes]:
    return (value for value in chunk.records if isinstance(value, bytes))


def _size_bytes(record: Outgoing) -> int:
    if isinstance(record, bytes):
        return len(record)
    return len(record.value or b"") + len(record.key or b"")


def send_many_counts(error: BaseException) -> tuple[int, int]:
    """How many records of a failed `send_many` were acked, and how many were taken and not acked, as its note tells."""
    for note in getattr(error, "__notes__", ()):
        if found := _COUNTS_NOTE.match(note):
            return int(found[1]), int(found[2])
    return 0, 0


@contextmanager
def progress(sources: Sequence[Source], clock: Clock) -> Generator[Callable[[int], None]]:
    """A bar on stderr, to be told of every byte that was read; none in a pipe, nor where the end is not known."""
    sizes = [source.size_bytes for source in sources]
    if not sys.stderr.isatty() or None in sizes:
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False, transient=True) as bar:
        task = bar.add_task("", total=sum(size for size in sizes if size is not None))
        drawn_s = clock.monotonic()

        def advance(count: int) -> None:
            nonlocal drawn_s
            now_s = clock.monotonic()
            refresh = now_s - drawn_s >= _REFRESH_S
            drawn_s = now_s if refresh else drawn_s
            bar.update(task, advance=count, refresh=refresh)

        yield advance


__all__ = [
    "Chunk",
    "FileSource",
    "Source",
    "StdinSource",
    "Work",
    "bytes_text",
    "progress",
    "send_many_counts",
]
