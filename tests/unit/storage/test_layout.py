"""File names, in both directions."""

import pytest

from penstock.storage.layout import (
    parse_partition_directory_name,
    parse_segment_file_name,
    put_aside_directory_name,
    segment_file_name,
)


def test_segment_files_bear_their_base_offset_in_twenty_digits() -> None:
    assert segment_file_name(42, ".log") == "00000000000000000042.log"
    assert parse_segment_file_name("00000000000000000042.timeindex") == (42, ".timeindex")
    assert parse_segment_file_name("09223372036854775807.log") == (2**63 - 1, ".log")


@pytest.mark.parametrize(
    "name",
    ["42.log", "00000000000000000042", "00000000000000000042.log.deleted", "0000000000000000004x.log",
     "00000000000000000042.log.tmp", "99999999999999999999.log", "leader-epoch-checkpoint",
     "٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠٠٤٢.log"],
)  # fmt: skip
def test_other_names_are_no_segment_files(name: str) -> None:
    assert parse_segment_file_name(name) is None


@pytest.mark.parametrize(
    ("name", "parsed"),
    [("orders-0", ("orders", 0)), ("a-b-1-12", ("a-b-1", 12)), ("..x-3", ("..x", 3)), ("-1-2", ("-1", 2))],
)
def test_partition_directories_end_in_the_partition(name: str, parsed: tuple[str, int]) -> None:
    assert parse_partition_directory_name(name) == parsed


@pytest.mark.parametrize(
    "name",
    ["orders", "-0", "orders-", "orders-x", "orders-00", "orders-0.abc-delete", "orders-0.abc-stray", "..-0", ".-0",
     "a/b-0", "orders-99999999999", "x" * 250 + "-0", "metadata.db", ".lock"],
)  # fmt: skip
def test_other_names_are_no_partition_directories(name: str) -> None:
    assert parse_partition_directory_name(name) is None


def test_the_longest_topic_still_gets_a_name_for_its_deletion() -> None:
    name = put_aside_directory_name("x" * 249, 2**31 - 1, "0" * 32, "-delete")
    assert len(name) == 255
    assert parse_partition_directory_name(name) is None
