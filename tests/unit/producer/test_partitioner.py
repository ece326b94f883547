"""Keys go where Java's producer puts them; records without one spread, a batch at a time."""

import itertools
import random

import pytest

from penstock.producer.partitioner import KeyHashes, StickyPartition, java_partition, murmur2

# What Java's Utils.murmur2 gives; the first six are in Kafka's own UtilsTest.
JAVA = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize("key", JAVA)
def test_a_key_is_hashed_otherwise_than_by_java(key: bytes) -> None:
    assert murmur2(key) == JAVA[key] & 0xFFFFFFFF
    assert java_partition(key, 7) == (JAVA[key] & 0x7FFFFFFF) % 7


def test_a_remembered_key_goes_elsewhere_when_partitions_are_added() -> None:
    hashes = KeyHashes()
    for count in (3, 5, 3):
        for number in range(10_000):
            key = b"key-%d" % number
            assert hashes.partition(key, count) == java_partition(key, count)


def test_keyless_records_leave_a_partition_before_its_batch_is_full_or_stay_for_ever() -> None:
    sticky = StickyPartition(100, random.Random(1))
    chosen: list[int] = []
    for _ in range(400):
        chosen.append(sticky.pick(4))
        sticky.used(25)
    runs = [chosen[place : place + 4] for place in range(0, 400, 4)]
    assert all(len(set(run)) == 1 for run in runs)
    assert all(one[0] != other[0] for one, other in itertools.pairwise(runs))
    assert {run[0] for run in runs} == {0, 1, 2, 3}


def test_a_partition_that_is_gone_is_not_chosen() -> None:
    sticky = StickyPartition(100, random.Random(1))
    while sticky.pick(8) < 4:
        sticky.move_on()
    assert sticky.pick(2) in (0, 1)
    assert StickyPartition(100, random.Random(1)).pick(1) == 0
