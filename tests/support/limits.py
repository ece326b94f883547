"""Taking from the process what a busy machine would not give it."""

import os
import resource
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def no_more_descriptors() -> Generator[None, None, None]:
    """The process is at its limit of open files and sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def no_larger_files(size_bytes: int) -> Generator[None, None, None]:
    """No file of the process grows above that size: writes fail with EFBIG (Python ignores the signal)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
