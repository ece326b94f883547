"""CRC-32C: of record batches, and of the broker's own files.

Owns nothing but how the function is loaded. The package `crc32c` brings its command line along and looks up its own version, which loads
argparse, email and zipfile: 13 ms of each start. So its compiled module is loaded alone, without the package around it.
"""

from collections.abc import Callable
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec

Checksum = Callable[..., int]


def load(compiled_name: str) -> Checksum:
    """The function of that compiled module of the package; of the package itself, if it has none."""
    package = find_spec("crc32c")
    compiled = package and PathFinder.find_spec(compiled_name, package.submodule_search_locations)
    if not compiled or not compiled.loader:
        # another build of the package: it knows itself where its function is
        from crc32c import crc32c as function

        return function
    module = module_from_spec(compiled)
    compiled.loader.exec_module(module)
    found: Checksum = module.crc32c
    return found


crc32c = load("_crc32c")
"""`crc32c(data, value=0)`: the checksum of `data`, a buffer, going on from that of what is before it."""

__all__ = ["crc32c"]
