"""kcat: librdkafka, an old one, from the command line."""

import json
import struct
import subprocess
from collections.abc import Sequence
from typing import Any

from tests.support.clients import LIMIT_S
from tests.support.requirements import need_program


def run(*arguments: str, stdin: bytes = b"") -> bytes:
    """Run kcat to its end; returns its stdout. An AssertionError with its stderr when it fails."""
    program = need_program("kcat")
    done = subprocess.run(
        [program, *arguments], input=stdin, capture_output=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, f"kcat {' '.join(arguments)}: {done.stderr.decode(errors='replace')[-2000:]}"
    return done.stdout


def produce(bootstrap: str, topic: str, values: Sequence[bytes], codec: str) -> None:
    """Produce to partition 0; values without LF. Fails if one is not acked."""
    run("-P", "-b", bootstrap, "-t", topic, "-p", "0", "-z", codec, stdin=b"\n".join(values))


def consume(bootstrap: str, topic: str, count: int, partition: int = 0) -> list[bytes]:
    """The first `count` values of a partition."""
    arguments = ["-C", "-b", bootstrap, "-t", topic, "-p", str(partition), "-o", "beginning", "-q", "-u"]
    out = run(*arguments, "-c", str(count), "-f", "%R%s")
    return split_sized(out)


def split_sized(out: bytes) -> list[bytes]:
    """Values behind their 4-byte sizes (kcat's %R): no delimiter can be confused with content."""
    found: list[bytes] = []
    position = 0
    while position < len(out):
        (size,) = struct.unpack_from(">i", out, position)
        found.append(out[position + 4 : position + 4 + size])
        position += 4 + size
    return found


def metadata(bootstrap: str, topic: str | None = None) -> Any:
    """What `kcat -L -J` tells, of one topic or of all."""
    return json.loads(run("-L", "-J", "-b", bootstrap, *(("-t", topic) if topic else ())))


def offset_by_time(bootstrap: str, topic: str, partition: int, timestamp_ms: int) -> int:
    """What `kcat -Q` tells; -1 is the end, -2 the beginning as a question."""
    out = run("-Q", "-b", bootstrap, "-t", f"{topic}:{partition}:{timestamp_ms}").decode()
    return int(out.rpartition("offset ")[2])
