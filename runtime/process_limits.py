"""What the system lets this process have.

Owns the limit of open files (RLIMIT_NOFILE). A library must not change it, for it is the whole process's; `penstock serve` does.
"""

import resource

UNLIMITED_MEANS = 1 << 20


def open_files_limit() -> int:
    """How many descriptors this process may have now."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return UNLIMITED_MEANS if soft == resource.RLIM_INFINITY else soft


def raise_open_files_limit() -> None:
    """Take as many descriptors as an ordinary user may; where the system does not let us, it stays as it is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # macOS says "unlimited" and means its kernel's maximum
        return


__all__ = ["open_files_limit", "raise_open_files_limit"]
