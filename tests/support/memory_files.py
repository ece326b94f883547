"""The simulated disk under the name that tests use for which it is just files in memory."""

from tests.support.simulated_disk import SimulatedDisk


class MemoryFiles(SimulatedDisk):
    """A `SimulatedDisk`; its module says what can be done to it."""


__all__ = ["MemoryFiles"]
