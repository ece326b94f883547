"""Children that never outlive their parents, and calls into an event loop from outside of one."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from tests.support.deadline import until

from penstock.runtime.blocking import run_blocking
from penstock.runtime.guarded_process import GuardedProcess, ProcessFailed, variables_without
from penstock.runtime.temporary import make_temporary_directory

LIMIT_S = 30
SPEAKS = "import sys; print(*sys.argv[1:], flush=True); sys.stderr.write('to the log\\n'); sys.stderr.flush(); input()"


@contextmanager
def child(folder: Path, source: str, *arguments: str) -> Generator[GuardedProcess]:
    """A guarded run of a module with that source."""
    (folder / "child.py").write_text(source)
    variables = {**os.environ, "PYTHONPATH": str(folder), "GUARDED_TEST": "1"}
    process = GuardedProcess("child", arguments, log_path=str(folder / "log"), variables=variables)
    try:
        yield process
    finally:
        process.kill()


def test_a_module_is_run_with_its_arguments_its_line_and_its_log(tmp_path: Path) -> None:
    with child(tmp_path, SPEAKS, "one", "--two") as process:
        assert process.first_line(LIMIT_S) == "one --two"
        until(lambda: process.log_text() == "to the log\n", "the log")
        assert process.exit_code is None
        assert process.pid != os.getpid()
    assert process.exit_code == -signal.SIGKILL
    process.kill()


def test_one_that_ends_before_it_speaks_is_told_with_its_log(tmp_path: Path) -> None:
    source = "import sys; sys.stderr.write('no such folder\\n'); sys.exit(3)"
    with child(tmp_path, source) as process, pytest.raises(ProcessFailed) as caught:
        process.first_line(LIMIT_S)
    assert str(caught.value) == "ended with 3\nno such folder"


def test_one_that_does_not_speak_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    source = "import time; print('half a line', end='', flush=True); time.sleep(600)"
    with child(tmp_path, source) as process, pytest.raises(ProcessFailed, match=r"said nothing for 0\.2 s"):
        process.first_line(0.2)


def test_it_is_not_in_the_group_that_ctrl_c_goes_to(tmp_path: Path) -> None:
    with child(tmp_path, SPEAKS) as process:
        process.first_line(LIMIT_S)
        assert os.getpgid(process.pid) != os.getpgid(0)


PARENT = """
import os, sys
from penstock.runtime.guarded_process import GuardedProcess
process = GuardedProcess("child", [], log_path="log", variables=dict(os.environ))
process.first_line(30)
if sys.argv[1] == "forked":
    holder = os.fork()
    if holder == 0:
        import time
        time.sleep(600)
    print(holder)
print(process.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def is_running(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("how", ["alone", "forked"])
def test_it_ends_with_a_parent_that_is_killed(tmp_path: Path, how: str) -> None:
    (tmp_path / "child.py").write_text("import time; print('begun', flush=True); time.sleep(600)")
    (tmp_path / "parent.py").write_text(PARENT)
    with (tmp_path / "out").open("wb") as out:
        parent = subprocess.run(
            [sys.executable, "parent.py", how],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            stdout=out,
            timeout=LIMIT_S,
            check=False,
        )
    assert parent.returncode == -signal.SIGKILL
    *holders, pid = (int(line) for line in (tmp_path / "out").read_text().split())
    try:
        until(lambda: not is_running(pid), "the end of the child")
    finally:
        for holder in holders:
            os.kill(holder, signal.SIGKILL)


def test_variables_are_left_out_by_their_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_NODE_ID", "3")
    monkeypatch.setenv("XPENSTOCK", "4")
    found = variables_without("PENSTOCK_")
    assert "PENSTOCK_NODE_ID" not in found
    assert found["XPENSTOCK"] == "4"


async def add(first: int, second: int) -> int:
    await trio.lowlevel.checkpoint()
    return first + second


async def fail() -> None:
    raise KeyError("mine")


def test_an_async_function_can_be_called_from_code_that_is_not() -> None:
    assert run_blocking(lambda: add(1, 2)) == 3
    with pytest.raises(KeyError, match="mine"):
        run_blocking(fail)


async def test_also_while_another_loop_runs_in_this_thread() -> None:
    assert run_blocking(lambda: add(1, 2)) == 3


def test_temporary_directories_differ_and_are_private() -> None:
    first, second = (Path(make_temporary_directory("penstock-test-")) for _ in range(2))
    try:
        assert first != second
        assert first.is_absolute()
        assert first.stat().st_mode & 0o777 == 0o700
        assert first.name.startswith("penstock-test-")
    finally:
        first.rmdir()
        second.rmdir()
