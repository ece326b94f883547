"""Transactions as compaction sees them: what was aborted, what ends nothing, and where nothing is decided yet."""

from tests.support.compaction import keyed, marker

from penstock.protocol.record_batch import BatchHeader, read_batch_header, stamp
from penstock.protocol.record_filter import ControlType
from penstock.storage import cleaned_transactions
from penstock.storage.cleaned_transactions import TransactionFilter, TransactionScan

DATA, ABORT, COMMIT = -1, int(ControlType.ABORT), int(ControlType.COMMIT)
Event = tuple[int, int]


def header(offset: int, producer_id: int, kind: int) -> BatchHeader:
    raw = (
        keyed([(b"k", b"v")], producer_id=producer_id, is_transactional=True)
        if kind == DATA
        else marker(ControlType(kind), producer_id=producer_id)
    )
    stamp(memoryview(raw), offset, 0)
    return read_batch_header(raw)


def scanned(events: list[Event]) -> TransactionScan:
    scan = TransactionScan()
    for offset, (producer_id, kind) in enumerate(events):
        scan.note(header(offset, producer_id, kind), None if kind == DATA else kind)
    return scan


def filtered(events: list[Event], scan: TransactionScan, first: int = 0) -> list[bool]:
    """Whether each batch may go."""
    transactions = TransactionFilter(scan.aborted)
    found: list[bool] = []
    for offset, (producer_id, kind) in enumerate(events, first):
        at = header(offset, producer_id, kind)
        found.append(transactions.is_aborted(at) if kind == DATA else transactions.ends_nothing(at, kind))
    return found


def test_interleaved_transactions_are_told_apart_by_producer() -> None:
    events = [(1, DATA), (2, DATA), (1, DATA), (2, ABORT), (2, DATA), (1, COMMIT), (2, COMMIT)]
    scan = scanned(events)
    assert [tuple(one) for one in scan.aborted] == [(1, 3, 2)]
    assert scan.first_unstable_offset(7) == 7
    assert filtered(events, scan) == [False, True, False, False, False, False, False]


def test_an_aborted_transaction_is_followed_by_another_of_the_same_producer() -> None:
    events = [(1, DATA), (1, ABORT), (1, DATA), (1, ABORT), (1, DATA), (1, COMMIT)]
    assert filtered(events, scanned(events)) == [True, False, True, False, False, False]


def test_a_marker_without_a_batch_ends_nothing() -> None:
    events = [(1, ABORT), (2, COMMIT), (1, DATA), (2, ABORT), (1, COMMIT)]
    assert filtered(events, scanned(events)) == [True, True, False, True, False]


def test_a_marker_stays_while_a_batch_of_its_transaction_is_seen_whatever_the_scan_has_missed() -> None:
    events = [(1, DATA), (1, ABORT), (1, ABORT)]
    assert filtered(events, TransactionScan()) == [False, False, True]


def test_an_emptied_marker_ends_nothing_and_an_unknown_one_is_left_alone() -> None:
    transactions = TransactionFilter([])
    assert transactions.ends_nothing(header(0, 1, ABORT), None)
    assert not transactions.ends_nothing(header(0, 1, ABORT), 7)


def test_the_first_open_transaction_bounds_what_is_decided() -> None:
    events = [(1, DATA), (1, COMMIT), (2, DATA), (1, DATA), (2, DATA)]
    assert scanned(events).first_unstable_offset(5) == 2
    assert scanned([*events, (2, ABORT)]).first_unstable_offset(6) == 3
    assert scanned([*events, (2, ABORT), (1, COMMIT)]).first_unstable_offset(7) == 7


def test_too_many_transactions_end_a_scan() -> None:
    assert cleaned_transactions.TRANSACTIONS_MAX == 100_000
    scan = TransactionScan()
    at = header(0, 1, DATA)
    for number in range(cleaned_transactions.TRANSACTIONS_MAX):
        assert not scan.is_full
        at.producer_id = number
        scan.note(at, None)
    assert scan.is_full
