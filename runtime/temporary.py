"""Folders for what is thrown away."""

import tempfile


def make_temporary_directory(prefix: str) -> str:
    """Make an empty folder that only this user can look into, where the machine keeps such; returns its absolute path."""
    return tempfile.mkdtemp(prefix=prefix)


__all__ = ["make_temporary_directory"]
