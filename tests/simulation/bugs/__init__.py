"""The board of planted bugs: each must be found (`test_planted_bugs.py`), or what the simulation says of the code is worth little."""

from tests.simulation.bugs import backlogs, control, groups, replication, storage
from tests.simulation.bugs.planting import Bug

BUGS: dict[str, Bug] = {
    bug.name: bug for bug in (*replication.BUGS, *storage.BUGS, *control.BUGS, *groups.BUGS, *backlogs.BUGS)
}

__all__ = ["BUGS", "Bug"]
