"""Everything is in pyproject.toml; this adds the compiled build. `PENSTOCK_COMPILE=1 pip install .` makes a wheel for this platform.

mypyc compiles the loops that run for every record into C, from the typed Python as it stands; the `.py` files are in the wheel as well, and do
the same. It needs a C compiler, and mypy while it builds; `MYPYC_OPT_LEVEL` is how much the compiler optimizes (0 to 3; 3 by default), as for mypyc itself.
Without `PENSTOCK_COMPILE` the wheel is pure; editable installs always are.
"""

import gc
import os
import sys
from typing import Any

from setuptools import setup

MYPY = (
    "--ignore-missing-imports",
    "--follow-imports=silent",
)  # what we depend on is not there while building
COMPILED = ("consumer/decoding.py", "consumer/runs.py", "protocol/record_writer.py")


def compiled() -> dict[str, Any]:
    """What a compiled build tells setuptools."""
    needs: dict[str, Any] = {"setup_requires": ["mypy>=1.13"]}
    if "bdist_wheel" not in sys.argv:
        return needs  # the frontend asks for these first, and only then is mypyc there
    from mypyc.build import mypycify

    paths = [f"src/penstock/{path}" for path in COMPILED]
    level = os.environ.get("MYPYC_OPT_LEVEL", "3")
    modules = mypycify([*MYPY, *paths], group_name="penstock", opt_level=level)
    gc.freeze()  # what mypy has built up is never looked through again: that took ten of the build's 24 seconds, most of it at the very end
    return needs | {"ext_modules": modules}


setup(**(compiled() if os.environ.get("PENSTOCK_COMPILE") == "1" else {}))
