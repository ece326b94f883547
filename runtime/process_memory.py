"""What memory another process of this machine has."""

import os


def resident_bytes(pid: int) -> int | None:
    """Resident memory of a process now. None where the system does not tell (it has no `/proc`), or there is no such process any more."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as told:
            return int(told.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return None


__all__ = ["resident_bytes"]
