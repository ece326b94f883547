"""An archive of the classes that Kafka's tools load, so that a JVM starts in half the CPU time (Java's class data sharing).

Owns the file `<jars>-<java>.jsa` beside the folder of jars. The first tool that speaks to a broker
and runs to its end writes it, every later JVM starts from it. An archive that does not fit (other jars, another JVM) is passed over by the JVM itself without a word; it may be deleted at any time.
"""

import hashlib
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["reading_archive", "writing_archive"]

_SILENT = "-Xlog:disable"
"""The JVM's own warnings would go to stdout, into the output of the tool."""


def reading_archive(java: str, jars: Path) -> list[str]:
    """The options that make a JVM start from the archive; none where there is none yet."""
    path = _path(java, jars)
    return [_SILENT, f"-XX:SharedArchiveFile={path}"] if path.exists() else []


@contextmanager
def writing_archive(java: str, jars: Path) -> Generator[list[str]]:
    """The options for a run that starts from the archive, or writes it where there is none yet."""
    options = reading_archive(java, jars)
    if options:
        yield options
        return
    path = _path(java, jars)
    written = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        yield [_SILENT, f"-XX:ArchiveClassesAtExit={written}"]
        if written.exists():  # not after a JVM that could not write it, or was killed
            written.rename(path)
    finally:
        written.unlink(missing_ok=True)


def _path(java: str, jars: Path) -> Path:
    place = Path(java).resolve()
    made = hashlib.sha256(f"{place} {place.stat().st_mtime_ns}".encode()).hexdigest()[:8]
    return jars.with_name(f"{jars.name}-{made}.jsa")
