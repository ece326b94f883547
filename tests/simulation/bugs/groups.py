"""Bugs in groups."""

from typing import Any

from tests.simulation.bugs.planting import Bug, Patch

from penstock.broker.groups.record_writer import RecordWriter
from penstock.protocol.errors import ErrorCode


def _done_at_once(original: Any) -> Any:
    def append(self: Any, records: Any, done: Any) -> None:
        is_told = False

        def tell(code: ErrorCode) -> None:
            nonlocal is_told
            if not is_told:
                is_told = True
                done(code)

        original(self, records, tell)
        self._token.run_sync_soon(tell, ErrorCode.NONE)

    return append


BUGS = (
    Bug(
        "commits before the high watermark",
        "a commit is acked and visible before it is committed to __consumer_offsets",
        [Patch(RecordWriter, "append", _done_at_once)],
        faults=("freeze", "partition", "store cut off"),
        seed=11,
        found_by=("G2",),
    ),
)
