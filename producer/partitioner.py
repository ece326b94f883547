"""Which partition a record goes to.

Owns Java's hash of keys, so that all clients put a key into the same partition, and the choice for records without a key. Pure: chance is
handed in.

Source: Kafka's `Utils.murmur2` and `BuiltInPartitioner` (KIP-480, KIP-794).
"""

import struct
from collections.abc import Callable
from typing import Final

from penstock.runtime.clock import Random

Partitioner = Callable[[str, bytes | None, bytes | None, int], int]
"""`(topic, key, value, partition_count) -> partition`; called for each record that names no partition."""

_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995
_MASK: Final = 0xFFFFFFFF
_REMEMBERED_KEYS_MAX: Final = 8192
_REMEMBERED_KEY_MAX_BYTES: Final = 64


def murmur2(data: bytes) -> int:
    """Java's 32-bit hash of a key, unsigned."""
    word_count = len(data) >> 2
    found = _SEED ^ len(data)
    for word in struct.unpack_from(f"<{word_count}I", data):
        mixed = word * _M & _MASK
        mixed = (mixed ^ mixed >> 24) * _M & _MASK
        found = found * _M & _MASK ^ mixed
    rest = data[word_count << 2 :]
    if rest:
        found = (found ^ int.from_bytes(rest, "little")) * _M & _MASK
    found = (found ^ found >> 13) * _M & _MASK
    return found ^ found >> 15


def java_partition(key: bytes, partition_count: int) -> int:
    """Where Java's producer puts a key."""
    return (murmur2(key) & 0x7FFFFFFF) % partition_count


class KeyHashes:
    """The positive hashes of keys, remembered for the keys that come again."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, int] = {}

    def partition(self, key: bytes, partition_count: int) -> int:
        """As `java_partition`."""
        found = self._known.get(key)
        if found is None:
            found = murmur2(key) & 0x7FFFFFFF
            if len(key) <= _REMEMBERED_KEY_MAX_BYTES:
                if len(self._known) >= _REMEMBERED_KEYS_MAX:
                    self._known.clear()
                self._known[key] = found
        return found % partition_count


class StickyPartition:
    """The partition for records without a key: one until it got a batch's worth of bytes, then another by chance."""

    __slots__ = ("_left_bytes", "_random", "_switch_bytes", "index")

    def __init__(self, switch_bytes: int, random: Random) -> None:
        self._switch_bytes = switch_bytes
        self._random = random
        self._left_bytes = 0
        self.index = 0

    def pick(self, partition_count: int) -> int:
        """The partition for the next record."""
        if self._left_bytes <= 0 or self.index >= partition_count:
            self._switch(partition_count)
        return self.index

    def used(self, size_bytes: int) -> None:
        """Count what went to the partition."""
        self._left_bytes -= size_bytes

    def move_on(self) -> None:
        """Take another partition next time: this one's batch is full."""
        self._left_bytes = 0

    def _switch(self, partition_count: int) -> None:
        self._left_bytes = self._switch_bytes
        if partition_count == 1:
            self.index = 0
        elif self.index < partition_count:
            step = 1 + self._random.randrange(0, partition_count - 1)
            self.index = (self.index + step) % partition_count
        else:
            self.index = self._random.randrange(0, partition_count)


__all__ = ["KeyHashes", "Partitioner", "StickyPartition", "java_partition", "murmur2"]
