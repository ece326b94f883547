"""What a test needs of the machine. Missing: one clear line and a skip; under PENSTOCK_CI=1 a failure.

The mechanism is `need`; `tests/conftest.py` turns every other skip into a failure under PENSTOCK_CI=1, too.
"""

import os
import shutil

import pytest

IN_CI = os.environ.get("PENSTOCK_CI") == "1"


def need(present: bool, what: str) -> None:
    """Skip the test that asks when `what` is not `present`."""
    if not present:
        pytest.skip(f"not on this machine: {what}")


def need_program(name: str, *, hint: str = "") -> str:
    """The path of a program, or a skip; `hint` says where it comes from."""
    path = shutil.which(name)
    need(path is not None, f"{name} ({hint})" if hint else name)
    assert path is not None
    return path
