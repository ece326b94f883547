"""A broker's metrics in Prometheus' text format, version 0.0.4.

Owns the names, their help and the format. Pure. A sample that has nothing to tell (no bound, not known) is left out, and a family without samples as well.
Counts begin at 0 when the broker starts, and when a partition is given a bound, as counters do.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/, https://prometheus.io/docs/practices/naming/
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from penstock.broker.backlog.figures import UNKNOWN, BacklogFigures

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class BacklogFamily:
    """One metric of bounded partitions. `value` returns -1 for nothing to tell."""

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    value: Callable[[BacklogFigures], float]
    with_group: bool = False


BACKLOG_FAMILIES: Sequence[BacklogFamily] = (
    BacklogFamily(
        "penstock_backlog_records",
        "gauge",
        "Records that the slowest counted group has not consumed.",
        lambda each: each.records,
    ),
    BacklogFamily(
        "penstock_backlog_max_records", "gauge", "backlog.max.records.", lambda each: each.bounds.max_records
    ),
    BacklogFamily(
        "penstock_backlog_bytes",
        "gauge",
        "Bytes of the log that are not consumed, where they are bounded.",
        lambda each: each.size_bytes,
    ),
    BacklogFamily(
        "penstock_backlog_max_bytes", "gauge", "backlog.max.bytes.", lambda each: each.bounds.max_bytes
    ),
    BacklogFamily(
        "penstock_backlog_age_seconds",
        "gauge",
        "Age of the first record that is not consumed, where it is bounded.",
        lambda each: _seconds(each.age_ms),
    ),
    BacklogFamily(
        "penstock_backlog_max_age_seconds",
        "gauge",
        "backlog.max.age.ms.",
        lambda each: _seconds(each.bounds.max_age_ms),
    ),
    BacklogFamily(
        "penstock_backlog_refused_records_total",
        "counter",
        "Records that were refused with POLICY_VIOLATION at the bound.",
        lambda each: each.refused_records,
    ),
    BacklogFamily(
        "penstock_backlog_refused_batches_total",
        "counter",
        "Batches that were refused with POLICY_VIOLATION at the bound.",
        lambda each: each.refused_batches,
    ),
    BacklogFamily(
        "penstock_backlog_held_batches",
        "gauge",
        "Batches that wait for room now.",
        lambda each: each.held_batches,
    ),
    BacklogFamily(
        "penstock_backlog_held_bytes",
        "gauge",
        "Memory of the batches that wait for room now.",
        lambda each: each.held_bytes,
    ),
    BacklogFamily(
        "penstock_backlog_timed_out_batches_total",
        "counter",
        "Batches that have waited for room in vain (REQUEST_TIMED_OUT).",
        lambda each: each.timed_out_batches,
    ),
    BacklogFamily(
        "penstock_backlog_throttled_seconds_total",
        "counter",
        "What requests were made to wait by backlog.policy=throttle.",
        lambda each: _seconds(each.throttled_ms),
    ),
    BacklogFamily(
        "penstock_retention_kept_bytes",
        "gauge",
        "What the last check of retention would have deleted, were it not for this group (retention.keep.unconsumed).",
        lambda each: _if_kept(each, each.kept_bytes),
        with_group=True,
    ),
    BacklogFamily(
        "penstock_retention_kept_segments",
        "gauge",
        "The segments that this is.",
        lambda each: _if_kept(each, each.kept_segments),
        with_group=True,
    ),
    BacklogFamily(
        "penstock_retention_kept_since_timestamp_seconds",
        "gauge",
        "When a check of retention has first found something kept; absent where nothing is.",
        lambda each: _seconds(each.kept_since_ms),
        with_group=True,
    ),
)


def _seconds(milliseconds: int) -> float:
    return UNKNOWN if milliseconds < 0 else milliseconds / 1000


def _if_kept(each: BacklogFigures, value: int) -> int:
    return value if each.bounds.keep_unconsumed else UNKNOWN


def info_text(*, version: str, cluster_id: str, node_id: int) -> str:
    """The family that says who is told about."""
    labels = _labels({"version": version, "cluster_id": cluster_id, "node_id": str(node_id)})
    name = "penstock_broker_info"
    return f"# HELP {name} The broker, always 1.\n# TYPE {name} gauge\n{name}{labels} 1\n"


def backlog_texts(figures: Mapping[tuple[str, int], BacklogFigures]) -> Iterator[str]:
    """One text for each family, of all bounded partitions by topic and index."""
    labels = {
        (topic, index): f'topic="{_escaped(topic)}",partition="{index}"' for topic, index in sorted(figures)
    }
    for family in BACKLOG_FAMILIES:
        yield "".join(_family_lines(family, figures, labels))


def _family_lines(
    family: BacklogFamily,
    figures: Mapping[tuple[str, int], BacklogFigures],
    labels: Mapping[tuple[str, int], str],
) -> Iterable[str]:
    has_begun = False
    for place, label in labels.items():
        each = figures[place]
        value = family.value(each)
        if value < 0:
            continue
        if not has_begun:
            has_begun = True
            yield f"# HELP {family.name} {family.help}\n# TYPE {family.name} {family.kind}\n"
        group = f',group="{_escaped(each.group or "")}"' if family.with_group else ""
        yield f"{family.name}{{{label}{group}}} {value}\n"


def _labels(values: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in values.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


__all__ = ["BACKLOG_FAMILIES", "CONTENT_TYPE", "backlog_texts", "info_text"]
