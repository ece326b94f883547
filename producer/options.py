"""The producer's options, checked.

Owns defaults, bounds and what goes together. Each name stands next to Kafka's in `Producer`.
"""

from dataclasses import dataclass
from typing import Final

from penstock.producer.accumulator import BATCH_OVERHEAD_BYTES, Limits
from penstock.producer.partitioner import Partitioner
from penstock.protocol.compression import LEVELS, Codec

_ACKS: Final = {"all": -1, "leader": 1, "none": 0}
_IN_FLIGHT_MAX_IDEMPOTENT: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a producer was asked to be; `acks` is -1, 1 or 0."""

    acks: int
    is_idempotent: bool
    codec: Codec
    compression_level: int | None
    linger_ms: float
    batch_size_bytes: int
    max_in_flight: int
    buffer_memory_bytes: int
    delivery_timeout_ms: float
    request_timeout_ms: int
    request_max_bytes: int
    partitioner: Partitioner | None

    @property
    def limits(self) -> Limits:
        """As the accumulator sees them."""
        return Limits(
            batch_size_bytes=self.batch_size_bytes,
            linger_ms=self.linger_ms,
            buffer_memory_bytes=self.buffer_memory_bytes,
            request_max_bytes=self.request_max_bytes,
            delivery_timeout_ms=self.delivery_timeout_ms,
            max_in_flight=self.max_in_flight,
            is_idempotent=self.is_idempotent,
            keeps_order=self.acks != 0,
        )


def checked_options(
    *,
    acks: str | int,
    idempotence: bool | None,
    compression: str,
    compression_level: int | None,
    linger_ms: float,
    batch_size_bytes: int,
    max_in_flight: int,
    buffer_memory_bytes: int,
    delivery_timeout_ms: float,
    request_timeout_ms: int,
    request_max_bytes: int,
    partitioner: Partitioner | None,
) -> Options:
    """Raises ValueError, which names the option, for what can't be or does not go together."""
    wire_acks = _ACKS.get(acks) if isinstance(acks, str) else acks
    if wire_acks not in (-1, 0, 1):
        raise ValueError(f"acks={acks!r}: it is 'all' (-1), 'leader' (1) or 'none' (0)")
    if idempotence and wire_acks != -1:
        raise ValueError("idempotence=True needs acks='all'")
    is_idempotent = wire_acks == -1 if idempotence is None else idempotence
    if compression.upper() not in Codec.__members__:
        raise ValueError(f"compression={compression!r}: it is one of {', '.join(Codec.__members__).lower()}")
    codec = Codec[compression.upper()]
    if compression_level is not None and compression_level not in LEVELS.get(codec, ()):
        raise ValueError(f"compression_level={compression_level}: {compression} has no such level")
    if max_in_flight < 1 or (is_idempotent and max_in_flight > _IN_FLIGHT_MAX_IDEMPOTENT):
        raise ValueError(f"max_in_flight={max_in_flight}: it is 1 to 5, more only with idempotence=False")
    for name, value, least in (
        ("linger_ms", linger_ms, 0),
        ("batch_size_bytes", batch_size_bytes, 1),
        ("delivery_timeout_ms", delivery_timeout_ms, 1),
        ("request_timeout_ms", request_timeout_ms, 1),
        ("request_max_bytes", request_max_bytes, 1024),
        ("buffer_memory_bytes", buffer_memory_bytes, batch_size_bytes + BATCH_OVERHEAD_BYTES),
    ):
        if value < least:
            raise ValueError(f"{name}={value}: it is at least {least}")
    return Options(
        acks=wire_acks,
        is_idempotent=is_idempotent,
        codec=codec,
        compression_level=compression_level,
        linger_ms=linger_ms,
        batch_size_bytes=min(batch_size_bytes, request_max_bytes),
        max_in_flight=max_in_flight,
        buffer_memory_bytes=buffer_memory_bytes,
        delivery_timeout_ms=delivery_timeout_ms,
        request_timeout_ms=request_timeout_ms,
        request_max_bytes=request_max_bytes,
        partitioner=partitioner,
    )


__all__ = ["Options", "checked_options"]
