"""Failing system calls for a real process: a library for LD_PRELOAD, and the rules that a test sets while the process runs.

The library is compiled by gcc at first use. Rules are in a file that both map: setting one takes effect with the next call. A rule names
a call, a glob for the file's path, how many calls to let through, how many to hit, and what happens to those: an error, a delay, half of
the bytes, or nothing at all in place of the call (a sync that is left out).
"""

import errno
import functools
import mmap
import struct
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.support.requirements import need_program

CALLS = ("write", "read", "sync", "rename", "open", "truncate", "unlink")
"""`sync` is fsync and fdatasync; `read` is pread, preadv and sendfile."""
RULE_COUNT_MAX = 16
ALWAYS = 1 << 30
_RULE = struct.Struct("=8i224s")
_HITS_POSITION = 7 * 4
_SOURCE = Path(__file__).with_name("shim.c")


@functools.cache
def library() -> Path:
    """The compiled library; skips without gcc."""
    gcc = need_program("gcc")
    folder = Path(tempfile.mkdtemp(prefix="penstock-shim-"))
    target = folder / "shim.so"
    command = [gcc, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(target), str(_SOURCE)]
    subprocess.run([*command, "-ldl", "-lpthread"], check=True)
    return target


class Shim:
    """The rules of one process (and of its next lives)."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "rules"
        self._path.write_bytes(bytes(RULE_COUNT_MAX * _RULE.size))
        with self._path.open("r+b") as file:
            self._rules = mmap.mmap(file.fileno(), 0)
        self._count = 0

    @property
    def environment(self) -> Mapping[str, str]:
        """What the process is started with."""
        return {"LD_PRELOAD": str(library()), "SHIM_RULES": str(self._path)}

    def clear(self) -> None:
        """End all rules."""
        self._rules[:] = bytes(len(self._rules))
        self._count = 0

    def fail(
        self, call: str, pattern: str, *, code: int = errno.EIO, skip: int = 0, times: int = ALWAYS
    ) -> "Rule":
        """Let `skip` matching calls through, and have the next `times` fail with `code`."""
        return self._set(call, pattern, skip, times, code=code)

    def delay(self, call: str, pattern: str, delay_us: int) -> "Rule":
        """Each matching call takes so much longer."""
        return self._set(call, pattern, 0, ALWAYS, delay_us=delay_us)

    def shorten(self, pattern: str, *, skip: int = 0, times: int = ALWAYS) -> "Rule":
        """Writes of more than one byte write only half."""
        return self._set("write", pattern, skip, times, shortens=1)

    def leave_out(self, call: str, pattern: str) -> "Rule":
        """The call says yes and does nothing."""
        return self._set(call, pattern, 0, ALWAYS, code=-1)

    def _set(
        self,
        call: str,
        pattern: str,
        skip: int,
        times: int,
        *,
        code: int = 0,
        delay_us: int = 0,
        shortens: int = 0,
    ) -> "Rule":
        assert self._count < RULE_COUNT_MAX, "no room for another rule"
        position = self._count * _RULE.size
        self._count += 1
        number = CALLS.index(call) + 1
        filled = _RULE.pack(0, skip, times, code, delay_us, shortens, 0, 0, pattern.encode())
        self._rules[position : position + _RULE.size] = filled
        self._rules[position : position + 4] = struct.pack("=i", number)  # it holds from here on
        return Rule(self._rules, position)


class Rule:
    """One rule in force."""

    def __init__(self, rules: mmap.mmap, position: int) -> None:
        self._rules = rules
        self._position = position

    @property
    def hit_count(self) -> int:
        """Calls that it changed so far."""
        return int(struct.unpack_from("=i", self._rules, self._position + _HITS_POSITION)[0])

    def lift(self) -> None:
        """End it."""
        self._rules[self._position : self._position + 4] = bytes(4)


__all__ = ["ALWAYS", "CALLS", "Rule", "Shim", "library"]
