"""What a broker of a test is set to where its user says nothing."""

from collections.abc import Mapping

FOR_TESTS: dict[str, str] = {
    "listeners": "PLAINTEXT://127.0.0.1:0",
    "group.initial.rebalance.delay.ms": "0",
}
"""A free port, on loopback only; the first member of a group need not wait for a second one."""

THROWN_AWAY: dict[str, str] = {
    "write.caching": "true",
    "log.segment.delete.delay.ms": "0",
    "log.initial.task.delay.ms": "86400000",
    "log.retention.check.interval.ms": "86400000",
}
"""For a broker whose records are not to outlive it: no ack waits for a disk, the files of deleted topics go at once, and records with old
timestamps do not vanish in the middle of a test."""


def flags_of(properties: Mapping[str, str]) -> list[str]:
    """The flags of `penstock serve` that set these configs."""
    return [part for name, value in properties.items() for part in ("--set", f"{name}={value}")]


__all__ = ["FOR_TESTS", "THROWN_AWAY", "flags_of"]
