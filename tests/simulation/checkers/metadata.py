"""M1 as seen from the brokers: what one of them knows of the cluster is what the store held at one revision, and in the end at the last one."""

from collections.abc import Mapping
from typing import cast

from tests.simulation.checkers.report import Report

from penstock.broker.image import ClusterImage
from penstock.runtime.metadata import Entry, Snapshot


class Views:
    """Told of every revision of the store, and of brokers' images now and then. A gap in a watch that nobody noticed shows here first."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._entries: dict[int, dict[str, Entry]] = {0: {}}
        self._images: dict[int, ClusterImage] = {}
        self._last_revision = 0

    def stored(self, revision: int, entries: Mapping[str, Entry]) -> None:
        """The store holds this from now on."""
        self._entries[revision] = dict(entries)
        self._last_revision = revision

    def looked(self, broker: str, image: ClusterImage) -> None:
        """That broker has this image now."""
        found = self._differences(image, image.revision)
        self._report.check(
            "M1",
            not found,
            f"{broker} takes itself for up to date with revision {image.revision}, and is not: {found}",
        )

    def behind(self, image: ClusterImage) -> str:
        """What an image has not learned of yet, in words; empty if it is what the store holds."""
        if image.revision != self._last_revision:
            return f"its image is of revision {image.revision}, the store's is {self._last_revision}"
        return self._differences(image, self._last_revision)

    def _differences(self, image: ClusterImage, revision: int) -> str:
        if revision not in self._entries:
            return f"the store never had revision {revision}"
        if revision not in self._images:
            snapshot = Snapshot(list(self._entries[revision].values()), revision)
            self._images[revision] = ClusterImage.from_snapshot(snapshot)
        wanted, seen = vars(self._images[revision]), vars(image)
        return "; ".join(
            _shown(name, wanted[name], seen[name]) for name in wanted if wanted[name] != seen[name]
        )


def _shown(name: str, wanted: object, seen: object) -> str:
    if isinstance(wanted, dict) and isinstance(seen, dict):
        ours, theirs = cast(dict[object, object], wanted), cast(dict[object, object], seen)
        return (
            f"{name.strip('_')} of {[key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]}"
        )
    return f"{name.strip('_')} is {seen}, not {wanted}"


__all__ = ["Views"]
