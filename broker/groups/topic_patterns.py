"""Which topics a subscription's regular expression means: RE2, in time linear in the name, whatever the pattern.

Owns the one place where a pattern that a client sent is run. Python's own `re` never sees one: a pattern can make it work for ever.
RE2 comes from the package `google-re2`, which is loaded with the first such subscription, so that a broker without one never pays for
it. Where that package has no wheel, subscriptions by pattern are refused with a message that says so; all else works.
"""

import importlib
from collections.abc import Iterable
from typing import Any

from penstock.errors import PenstockError

PATTERN_MEMORY_BYTES = 1 << 20
"""What one compiled pattern may take."""
PATTERN_LENGTH_MAX = 8 * 1024
PROGRAM_SIZE_MAX = 2_000
"""Steps of a compiled pattern: a few hundred alternatives. The time for a name is its length times this, at worst."""


class InvalidRegularExpression(PenstockError):
    """The pattern is not one that RE2 can run; the message says why."""


def matching(pattern: str, names: Iterable[str]) -> frozenset[str]:
    """The names that the whole pattern matches. Raises InvalidRegularExpression."""
    if len(pattern) > PATTERN_LENGTH_MAX:
        raise InvalidRegularExpression(f"the pattern is longer than {PATTERN_LENGTH_MAX} characters")
    try:
        re2: Any = importlib.import_module("re2")
    except ImportError:
        raise InvalidRegularExpression(
            "this broker has no RE2 (the package google-re2), which subscriptions by pattern need"
        ) from None
    options = re2.Options()
    options.log_errors = False
    options.max_mem = PATTERN_MEMORY_BYTES
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0] if error.args else "not understood"
        if isinstance(reason, bytes):
            reason = reason.decode(errors="replace")
        raise InvalidRegularExpression(f"the pattern {pattern!r} is not valid: {reason}") from None
    if compiled.programsize > PROGRAM_SIZE_MAX:
        raise InvalidRegularExpression(f"the pattern {pattern!r} takes more than {PROGRAM_SIZE_MAX} steps")
    return frozenset(name for name in names if compiled.fullmatch(name) is not None)
