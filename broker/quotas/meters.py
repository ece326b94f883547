"""What each client has used of its quotas.

Owns the buckets, who shares which, and the log line about who is slowed down. Knows no requests and no connections; the time is handed in
(monotonic seconds). What holds for whom is decided in `entity.py`.

Invariants: a bucket is forgotten only when it is full, which changes nothing, or when there are more than `REMEMBERED_MAX`; a client that refers
to a forgotten one is forgotten with it, so that nobody measures against a bucket which others do not see.
"""

import logging
from dataclasses import dataclass
from typing import TypeVar

from penstock.broker.quotas.bucket import TokenBucket
from penstock.broker.quotas.entity import (
    CONSUMER_BYTE_RATE,
    NAME_LENGTH_MAX,
    PRODUCER_BYTE_RATE,
    REQUEST_PERCENTAGE,
    Limit,
    QuotaEntity,
    Quotas,
    limit_of,
)

K = TypeVar("K")
V = TypeVar("V")

log = logging.getLogger(__name__)

WAIT_MAX_S = 10.0
"""The longest wait for a byte rate: clients give up a request after 30 s (Java's `request.timeout.ms`), and one that they sent before they
learned of the wait waits behind it. Kafka forgets what was sent more than 11 s ago."""
REQUEST_WAIT_MAX_S = 1.0
"""The same for request time, as in Kafka: heartbeats wait, too."""
REMEMBERED_MAX = 10_000
"""Buckets, and clients, that are remembered."""
TOLD_EVERY_S = 600.0
"""Who is slowed down is logged so often at most..."""
TELL_S = 1.0
"""...and one line for all in so long."""
_TOLD_MAX = 1_000

BucketKey = tuple[str, QuotaEntity]
"""The quota's name, and who share it."""


class Meter:
    """One bucket, and the quota that it is for. `amount`s are bytes, or seconds of request time."""

    __slots__ = ("bucket", "is_forgotten", "limit")

    def __init__(self, limit: Limit) -> None:
        is_time = limit.name == REQUEST_PERCENTAGE
        self.bucket = TokenBucket(_rate(limit), REQUEST_WAIT_MAX_S if is_time else WAIT_MAX_S)
        self.limit = limit
        self.is_forgotten = False


@dataclass(frozen=True, slots=True)
class ClientMeters:
    """What one client is measured against; None where there is no quota."""

    produce: Meter | None
    consume: Meter | None
    request: Meter | None

    @property
    def all(self) -> list[Meter]:
        """Those that there are."""
        return [each for each in (self.produce, self.consume, self.request) if each is not None]


UNMEASURED = ClientMeters(None, None, None)


class Meters:
    """All clients that were seen of late."""

    def __init__(self, quotas: Quotas, remembered_max: int = REMEMBERED_MAX) -> None:
        self._quotas = quotas
        self._remembered_max = remembered_max
        self._meters: dict[BucketKey, Meter] = {}
        self._clients: dict[tuple[str, bytes], ClientMeters] = {}
        self._told: dict[BucketKey, float] = {}
        self._last_told = float("-inf")

    def __len__(self) -> int:
        return len(self._meters) + len(self._clients)

    def client(self, user: str, client_id: bytes, now: float) -> ClientMeters:
        """What a client is measured against; `client_id` as it stands in the request, "" for null."""
        found = self._clients.get((user, client_id))
        if found is None:
            name = client_id.decode("utf-8", "replace")[:NAME_LENGTH_MAX]
            found = ClientMeters(
                self._meter(PRODUCER_BYTE_RATE, user, name, now),
                self._meter(CONSUMER_BYTE_RATE, user, name, now),
                self._meter(REQUEST_PERCENTAGE, user, name, now),
            )
            if not found.all:
                found = UNMEASURED
            if len(client_id) <= 4 * NAME_LENGTH_MAX:
                _make_room(self._clients, self._remembered_max)
                self._clients[user, client_id] = found
        return found

    def charge(self, meter: Meter, amount: float, now: float) -> float:
        """Record what a client has used; returns how many seconds it is to wait now."""
        wait_s = meter.bucket.record(amount, now)
        if wait_s > 0 and now - self._last_told >= TELL_S:
            self._tell(meter, wait_s, now)
        return wait_s

    def quotas_changed(self, quotas: Quotas, now: float) -> None:
        """Other quotas hold from now on. Who has used too much stays in debt."""
        self._quotas = quotas
        self._clients.clear()
        for (name, sharers), meter in self._meters.items():
            limit = limit_of(quotas, name, sharers.user or "", sharers.client_id or "")
            if limit is not None and limit.sharers == sharers:
                meter.limit = limit
                meter.bucket.set_rate(_rate(limit), now)

    def forget_idle(self, now: float) -> None:
        """Drop what is as good as new."""
        full = [key for key, meter in self._meters.items() if meter.bucket.is_full(now)]
        for key in full:
            self._meters.pop(key).is_forgotten = True
        gone = [
            client_key
            for client_key, client in self._clients.items()
            if client is UNMEASURED or any(meter.is_forgotten for meter in client.all)
        ]
        for client_key in gone:
            del self._clients[client_key]

    # Inside.

    def _meter(self, name: str, user: str, client_id: str, now: float) -> Meter | None:
        limit = limit_of(self._quotas, name, user, client_id)
        if limit is None:
            return None
        key = (name, limit.sharers)
        meter = self._meters.get(key)
        if meter is None:
            if len(self._meters) >= self._remembered_max:
                self._meters.pop(next(iter(self._meters))).is_forgotten = True
            meter = self._meters[key] = Meter(limit)
        return meter

    def _tell(self, meter: Meter, wait_s: float, now: float) -> None:
        key = (meter.limit.name, meter.limit.sharers)
        if now - self._told.get(key, float("-inf")) < TOLD_EVERY_S:
            return
        self._last_told = now
        _make_room(self._told, _TOLD_MAX)
        self._told[key] = now
        log.info(
            "%s: over %s=%g (the quota of %s): throttled, for %.0f ms this time",
            meter.limit.sharers,
            meter.limit.name,
            meter.limit.value,
            meter.limit.entity,
            wait_s * 1000,
        )


def _rate(limit: Limit) -> float:
    return limit.value / 100 if limit.name == REQUEST_PERCENTAGE else limit.value


def _make_room(table: dict[K, V], count_max: int) -> None:
    if len(table) >= count_max:
        del table[next(iter(table))]
