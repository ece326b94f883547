"""The work of `penstock import`: files are read on a worker while what was read before is sent.

Owns the counts and how a failure is told. Knows no flags and no format.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import click
import trio

from penstock.cli.asking import CLIENT_ID, counted
from penstock.cli.failure import CommandFailed
from penstock.cli.interruption import interruptible
from penstock.cli.output import bytes_text
from penstock.cli.produce_work import progress, send_many_counts
from penstock.cli.record_input import read_json
from penstock.client.errors import UnknownTopic
from penstock.errors import PenstockError
from penstock.offline.importing import SourceFile, StoredRecord, find_files, read_records
from penstock.producer.producer import OutgoingRecord, Producer
from penstock.runtime.environment import Environment

_ARROW = frozenset({"parquet", "arrow"})


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """What is to be done."""

    paths: Sequence[str]
    topic: str
    keep_partitions: bool
    compression: str


@dataclass(frozen=True, slots=True)
class _Bar:
    """What `progress` wants to know of a source."""

    name: str
    size_bytes: int | None

    async def read(self) -> bytes:
        raise NotImplementedError  # nobody reads a bar


async def run_import(bootstrap: str, ports: Environment, request: ImportRequest) -> int:
    """Do it, and tell what was done. Returns the exit code."""
    sources = await ports.threads.run(_find, ports, request.paths)
    if any(source.format in _ARROW for source in sources):
        _require_pyarrow()
    work = _Work(request)
    begin_s = ports.clock.monotonic()
    failure: PenstockError | None = None
    async with (
        interruptible() as interruption,
        Producer(
            bootstrap, ports, compression=request.compression, linger_ms=5, client_id=CLIENT_ID
        ) as producer,
    ):
        with (
            interruption.work(),
            progress([_Bar(each.path, each.size_bytes) for each in sources], ports.clock) as advance,
        ):
            try:
                await work.run(ports, producer, sources, advance)
            except PenstockError as error:
                failure = error
    elapsed_s = ports.clock.monotonic() - begin_s
    speed = (
        f" in {elapsed_s:.2f} s: {work.acked_count / elapsed_s:,.0f} records/s" if work.acked_count else ""
    )
    click.echo(
        f"penstock: {counted(work.acked_count, 'record')} acked ({bytes_text(work.acked_bytes)}){speed}",
        err=True,
    )
    if failure is not None:
        raise failure
    return interruption.exit_code or 0


def _find(ports: Environment, paths: Sequence[str]) -> list[SourceFile]:
    found: list[SourceFile] = []
    for path in paths:
        try:
            found += find_files(ports.files, path)
        except FileNotFoundError:
            raise CommandFailed(f"{path}: no such file or folder") from None
    return found


def _require_pyarrow() -> None:
    try:
        from penstock.offline.arrow_tables import load

        load()
    except ImportError:
        raise CommandFailed("parquet and arrow need pyarrow: pip install 'penstock[parquet]'") from None


class _Work:
    def __init__(self, request: ImportRequest) -> None:
        self._request = request
        self.acked_count = 0
        self.acked_bytes = 0

    async def run(
        self,
        ports: Environment,
        producer: Producer,
        sources: Sequence[SourceFile],
        advance: Callable[[int], None],
    ) -> None:
        """Send it all. Raises PenstockError; the counts are right then as well, as far as acks have come."""
        try:
            await producer.partition_count(self._request.topic)
        except UnknownTopic as error:
            raise CommandFailed(f"{error}; penstock topic create {self._request.topic} makes it") from error
        failure: PenstockError | None = None
        sender, receiver = trio.open_memory_channel[Sequence[OutgoingRecord]](1)
        async with trio.open_nursery() as nursery:

            async def reading() -> None:
                nonlocal failure
                async with sender:
                    try:
                        await self._read(ports, sources, sender, advance)
                    except PenstockError as error:
                        failure = error

            nursery.start_soon(reading)
            async for records in receiver:
                try:
                    await producer.send_many(self._request.topic, records)
                except PenstockError as error:
                    self._count(records[: send_many_counts(error)[0]])
                    failure = error
                    nursery.cancel_scope.cancel()
                    break
                self._count(records)
        if failure is not None:
            raise failure

    async def _read(
        self,
        ports: Environment,
        sources: Sequence[SourceFile],
        channel: trio.MemorySendChannel[Sequence[OutgoingRecord]],
        advance: Callable[[int], None],
    ) -> None:
        for source in sources:
            done: list[int] = []
            chunks = read_records(ports.files, source, _stored, done.append)
            while chunk := await ports.threads.run(_next, chunks):
                await channel.send([self._outgoing(record) for record in chunk])
                advance(sum(done))
                done.clear()

    def _outgoing(self, record: StoredRecord) -> OutgoingRecord:
        return OutgoingRecord(
            record.value,
            key=record.key,
            partition=record.partition if self._request.keep_partitions else None,
            timestamp_ms=None if record.timestamp_ms == -1 else record.timestamp_ms,
            headers=record.headers,
        )

    def _count(self, records: Sequence[OutgoingRecord]) -> None:
        self.acked_count += len(records)
        self.acked_bytes += sum(len(record.value or b"") + len(record.key or b"") for record in records)


def _next(chunks: Iterator[Sequence[StoredRecord]]) -> Sequence[StoredRecord]:
    """The next records of a file; none at its end."""
    return next(chunks, ())


def _stored(line: bytes) -> StoredRecord:
    record = read_json(line)
    assert isinstance(record, OutgoingRecord)
    return StoredRecord(
        record.value, record.key, record.partition, record.timestamp_ms, tuple(record.headers)
    )


__all__ = ["ImportRequest", "run_import"]
