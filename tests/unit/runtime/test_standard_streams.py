import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from penstock.runtime.files import StorageError
from penstock.runtime.standard_streams import ReaderGone, StandardInput, StandardOutput
from penstock.runtime.worker_threads import WorkerThreads

LIMIT_S = 10
Pipe = tuple[int, int]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    read_end, write_end = os.pipe()
    yield read_end, write_end
    for descriptor in (read_end, write_end):
        with contextlib.suppress(OSError):
            os.close(descriptor)


async def test_what_is_there_is_read_at_once_and_the_rest_is_waited_for(pipe: Pipe) -> None:
    source = StandardInput(pipe[0], WorkerThreads())
    os.write(pipe[1], b"first")
    with trio.fail_after(LIMIT_S):
        assert await source.read(1000) == b"first"
        with trio.move_on_after(0.01) as waited:
            await source.read(1000)
        assert waited.cancelled_caught
        os.write(pipe[1], b"second")
        assert await source.read(3) == b"sec"
        assert await source.read(1000) == b"ond"
        os.close(pipe[1])
        assert await source.read(1000) == b""


async def test_a_plain_file_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    with path.open("rb") as file:
        source = StandardInput(file.fileno(), WorkerThreads())
        assert await source.read(2) == b"ab"
        assert await source.read(2) == b"c"
        assert await source.read(2) == b""


async def test_a_full_pipe_is_waited_for_without_holding_up_the_loop(pipe: Pipe) -> None:
    sink = StandardOutput(pipe[1], WorkerThreads())
    written = 0
    with trio.fail_after(LIMIT_S):
        with trio.move_on_after(0.1) as waited:
            while True:
                written += await sink.write_some(b"x" * 10_000)
        assert waited.cancelled_caught
        assert written == fcntl.fcntl(pipe[1], fcntl.F_GETPIPE_SZ)
        assert len(os.read(pipe[0], written)) == written, "no byte more than was told"
        assert await sink.write_some(b"more") == 4


async def test_nobody_who_reads_is_an_error_of_its_own(pipe: Pipe) -> None:
    sink = StandardOutput(pipe[1], WorkerThreads())
    os.close(pipe[0])
    with pytest.raises(ReaderGone):
        await sink.write_some(b"x")


async def test_the_descriptor_stays_in_the_mode_that_it_came_in(pipe: Pipe) -> None:
    StandardInput(pipe[0], WorkerThreads())
    await StandardOutput(pipe[1], WorkerThreads()).write_some(b"x")
    assert os.get_blocking(pipe[0])
    assert os.get_blocking(pipe[1])


async def test_a_full_disk_is_told() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(StorageError, match="standard output"):
            await StandardOutput(descriptor, WorkerThreads()).write_some(b"x")
    finally:
        os.close(descriptor)


async def test_no_data_is_nothing_to_write(pipe: Pipe) -> None:
    assert await StandardOutput(pipe[1], WorkerThreads()).write_some(b"") == 0
