"""The checkers find what they are for: each is shown the fault that it guards against."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.batches import encode_batch
from tests.support.cluster.ledger import (
    KEY_COUNT,
    Stored,
    WriterLedger,
    check_once_and_in_order,
    check_seen,
    key_of,
    value_of,
)
from tests.support.cluster.readers import has_left_by_itself
from tests.support.cluster.replica_logs import check_chain, difference, read_log

Log = dict[int, list[Stored]]
COUNT = 2 * KEY_COUNT


def written() -> tuple[WriterLedger, Log]:
    """Two records for each key, in one partition, all acked."""
    ledger = WriterLedger("one")
    log: Log = {0: []}
    for offset in range(COUNT):
        number = ledger.next_number()
        log[0].append(Stored(offset, key_of("one", number), value_of("one", number)))
        ledger.ack(number, (0, offset))
    return ledger, log


def test_a_log_that_keeps_all_is_refused() -> None:
    ledger, log = written()
    assert check_once_and_in_order([ledger], log) == COUNT


def moved(log: Log) -> None:
    log[1] = [log[0].pop()]


def doubled(log: Log) -> None:
    log[0].append(Stored(COUNT, log[0][3].key, log[0][3].value))


def lost(log: Log) -> None:
    del log[0][7]


def elsewhere(log: Log) -> None:
    log[0].append(Stored(COUNT, log[0][-1].key, log[0].pop().value))


def of_a_stranger(log: Log) -> None:
    log[0].append(Stored(COUNT, b"k", value_of("stranger", 0)))


def torn(log: Log) -> None:
    log[0][-1] = Stored(COUNT - 1, log[0][-1].key, log[0][-1].value[:-1])


FAULTS: dict[str, Callable[[Log], None]] = {
    "two partitions|the partitions": moved,
    "is at": doubled,
    "is not there": lost,
    "and is at": elsewhere,
    "records of": of_a_stranger,
    "nobody wrote": torn,
}


@pytest.mark.parametrize(("told", "hurt"), FAULTS.items(), ids=[hurt.__name__ for hurt in FAULTS.values()])
def test_a_fault_in_a_log_is_overlooked(told: str, hurt: Callable[[Log], None]) -> None:
    ledger, log = written()
    hurt(log)
    with pytest.raises(AssertionError, match=told):
        check_once_and_in_order([ledger], log)


def test_two_records_of_a_key_out_of_order_are_overlooked() -> None:
    # As if the client were never told the offsets: else the acks show it first.
    ledger, log = written()
    ledger.acked = dict.fromkeys(ledger.acked)
    first, second = log[0][0], log[0][KEY_COUNT]
    log[0][0] = Stored(0, second.key, second.value)
    log[0][KEY_COUNT] = Stored(KEY_COUNT, first.key, first.value)
    with pytest.raises(AssertionError, match="out of order"):
        check_once_and_in_order([ledger], log)


def test_a_record_that_changed_after_it_was_seen_is_overlooked() -> None:
    _, log = written()
    with pytest.raises(AssertionError, match="seen otherwise"):
        check_seen(0, {3: 1}, log[0])
    with pytest.raises(AssertionError, match="is gone"):
        check_seen(0, {COUNT: 1}, log[0])


def test_logs_cut_into_other_segments_count_as_different(tmp_path: Path) -> None:
    log = encode_batch([b"a"], leader_epoch=1) + encode_batch([b"b"], base_offset=1, leader_epoch=2)
    cut = len(encode_batch([b"a"]))
    for name, parts in {"whole": [log], "cut": [log[:cut], log[cut:]]}.items():
        (tmp_path / name).mkdir()
        for number, part in enumerate(parts):
            (tmp_path / name / f"{number:020}.log").write_bytes(part)
    assert read_log(tmp_path / "whole") == read_log(tmp_path / "cut") == log
    check_chain("t-0", log)


def test_a_difference_between_replicas_is_not_named() -> None:
    first, second = (encode_batch([b"a"], leader_epoch=epoch, timestamps_ms=[1]) for epoch in (1, 2))
    assert "epoch 1" in difference({1: first, 2: second})
    assert "epoch 2" in difference({1: first, 2: second})


@pytest.mark.parametrize(
    ("log", "told"),
    [
        (encode_batch([b"a"]) + encode_batch([b"b"], base_offset=2), "2 after 0"),
        (encode_batch([b"a"], leader_epoch=2) + encode_batch([b"b"], base_offset=1, leader_epoch=1), "falls"),
        (encode_batch([b"a"], leader_epoch=0)[:-1] + b"x", "CRC"),
        (encode_batch([b"a"], leader_epoch=0) + b"torn", "torn"),
    ],
    ids=["a gap", "a lower epoch", "a flipped bit", "a torn batch"],
)
def test_a_broken_chain_of_batches_is_overlooked(log: bytes, told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        check_chain("t-0", log.replace(b"\xff\xff\xff\xff\x02", b"\x00\x00\x00\x00\x02"))


LEFT = ["assign", "did", "committed", "leaving", "revoke"]


@pytest.mark.parametrize(
    ("events", "members"),
    [
        (LEFT, {"it", "another"}),
        (LEFT[:-1], {"another"}),
        (LEFT[:-2], {"another"}),
        ([*LEFT[:-1], "lose"], {"another"}),
        (["assign", "revoke"], {"another"}),
        ([], set[str]()),
    ],
    ids=[
        "still a member",
        "nothing given back",
        "not asked",
        "lost its partitions",
        "only rebalanced",
        "never joined",
    ],
)
def test_a_member_that_did_not_leave_counts_as_one_that_left(events: list[str], members: set[str]) -> None:
    assert has_left_by_itself(notes_of(LEFT), "it", {"another"})
    assert not has_left_by_itself(notes_of(events), "it", members)


def notes_of(events: list[str]) -> str:
    return "".join(json.dumps({"event": event}) + "\n" for event in events)
