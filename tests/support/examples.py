"""How many examples a property is tried with: a share in each run, all of them in `make long` (EXAMPLES=1)."""

import os

SHARE = float(os.environ.get("EXAMPLES", "0.2"))


def examples(count: int) -> int:
    """The number for `max_examples` where `count` is the full one; at least 1."""
    return max(1, round(count * SHARE))
