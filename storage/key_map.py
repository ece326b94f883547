"""The latest offset of each key, in memory of a known size.

Owns the table. Knows neither records nor logs. A key is known by 16 bytes of its BLAKE2b hash and an offset by 8: 24 bytes for a slot, as in
Kafka's map, which uses MD5. With MD5 whoever writes to a topic could make two keys that are one to the cleaner; a collision of this hash is
out of anybody's reach, and it takes the same time (0.3 µs).

Open addressing with double hashing over a prime number of slots, in two flat arrays. A dict of digests would take about 190 bytes for a key.

Source: Kafka's `SkimpyOffsetMap`.
"""

from hashlib import blake2b

SLOT_SIZE_BYTES = 24
DIGEST_SIZE_BYTES = 16
SLOT_COUNT_MIN = 11
SPARE_SLOTS = 1.5
"""How many slots there are for each key where memory allows: a search then takes two or three steps."""


class KeyMap:
    """Room for `capacity` keys in at most `bytes_max` of memory, filled up to `load_factor`."""

    __slots__ = ("_digests", "_offsets", "_slot_count", "capacity", "count")

    def __init__(self, key_count: int, *, bytes_max: int, load_factor: float) -> None:
        """`key_count`: how many keys may come at the most; the table is no larger than they need."""
        slots_max = max(SLOT_COUNT_MIN, bytes_max // SLOT_SIZE_BYTES)
        wanted = max(SLOT_COUNT_MIN, int(key_count * SPARE_SLOTS) + 1)
        self._slot_count = _prime_at_most(slots_max) if wanted >= slots_max else _prime_at_least(wanted)
        self.capacity = max(1, min(int(self._slot_count * load_factor), self._slot_count - 1))
        self.count = 0
        self._digests = bytearray(DIGEST_SIZE_BYTES * self._slot_count)
        self._offsets = memoryview(bytearray(8 * self._slot_count)).cast("q")
        """One more than the offset; 0 in a free slot."""

    @property
    def size_bytes(self) -> int:
        """Of the table."""
        return SLOT_SIZE_BYTES * self._slot_count

    def put(self, key: bytes, offset: int) -> bool:
        """Let `offset` be the latest of the key. False if there is no room for a new key; the map is as before then."""
        digest = blake2b(key, digest_size=DIGEST_SIZE_BYTES).digest()
        slot = self._find(digest)
        offsets = self._offsets
        if not offsets[slot]:
            if self.count >= self.capacity:
                return False
            self.count += 1
            start = slot * DIGEST_SIZE_BYTES
            self._digests[start : start + DIGEST_SIZE_BYTES] = digest
        offsets[slot] = offset + 1
        return True

    def get(self, key: bytes) -> int:
        """The latest offset of the key; -1 if it was never put."""
        return self._offsets[self._find(blake2b(key, digest_size=DIGEST_SIZE_BYTES).digest())] - 1

    def _find(self, digest: bytes | bytearray) -> int:
        """The slot of the digest, or the free one that it would take; there is always a free one."""
        offsets, digests, slot_count = self._offsets, self._digests, self._slot_count
        number = int.from_bytes(digest, "little")
        slot = number % slot_count
        if not offsets[slot] or digests[slot * 16 : slot * 16 + 16] == digest:
            return slot
        step = 1 + (number >> 64) % (slot_count - 1)
        while True:
            slot += step
            if slot >= slot_count:
                slot -= slot_count
            if not offsets[slot] or digests[slot * 16 : slot * 16 + 16] == digest:
                return slot


def _prime_at_least(number: int) -> int:
    number |= 1
    while not _is_prime(number):
        number += 2
    return number


def _prime_at_most(number: int) -> int:
    number -= number % 2 == 0
    while not _is_prime(number):
        number -= 2
    return number


def _is_prime(odd: int) -> bool:
    divisor = 3
    while divisor * divisor <= odd:
        if odd % divisor == 0:
            return False
        divisor += 2
    return True


__all__ = ["KeyMap"]
