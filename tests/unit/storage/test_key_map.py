"""The key map: what it says is what was put last, within its memory."""

from penstock.storage.key_map import KeyMap


def test_the_offset_put_last_is_the_one_that_is_found() -> None:
    keys = KeyMap(1000, bytes_max=1 << 20, load_factor=0.9)
    for offset in range(3000):
        assert keys.put(b"key-%d" % (offset % 1000), offset)
    assert keys.count == 1000
    assert [keys.get(b"key-%d" % number) for number in range(1000)] == list(range(2000, 3000))
    assert keys.get(b"key-1000") == -1


def test_offset_0_and_the_empty_key_are_an_offset_and_a_key() -> None:
    keys = KeyMap(1, bytes_max=1 << 20, load_factor=0.9)
    assert keys.get(b"") == -1
    assert keys.put(b"", 0)
    assert keys.get(b"") == 0


def test_a_full_map_takes_known_keys_and_no_new_one() -> None:
    keys = KeyMap(10_000, bytes_max=24 * 100, load_factor=0.9)
    assert keys.size_bytes <= 24 * 100
    count = 0
    while keys.put(b"%d" % count, count):
        count += 1
    assert count == keys.capacity == keys.count
    assert 80 <= count <= 90
    assert keys.put(b"5", 12345)
    assert keys.get(b"5") == 12345
    assert [keys.get(b"%d" % number) for number in range(6, count)] == list(range(6, count))
    assert keys.get(b"%d" % count) == -1


def test_memory_is_no_more_than_the_keys_need() -> None:
    assert KeyMap(1000, bytes_max=1 << 30, load_factor=0.9).size_bytes < 40_000
    assert KeyMap(0, bytes_max=0, load_factor=1.0).capacity >= 1, "a compaction always gets on"


def test_a_map_with_one_free_slot_still_ends_its_searches() -> None:
    keys = KeyMap(100, bytes_max=24 * 11, load_factor=1.0)
    assert keys.capacity == 10
    for number in range(10):
        assert keys.put(b"%d" % number, number)
    assert keys.get(b"other") == -1
    assert not keys.put(b"other", 1)
