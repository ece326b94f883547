"""What is written on records that failed, without a broker."""

import pytest

from penstock.consumer.dead_letters import (
    MESSAGE_MAX_LENGTH,
    PREFIX,
    RecordFailure,
    as_it_was,
    failed_again,
    marked,
    original_topic,
    read_failure,
    stripped,
)
from penstock.consumer.record import ConsumerRecord
from penstock.protocol.record_batch import TimestampType

OWN = (("trace", b"1"), ("trace", None), ("", b"\xff"))
RECORD = ConsumerRecord("orders", 3, 77, 1_000, TimestampType.CREATE_TIME, b"k", b"v", OWN, 4)


def failure(error: Exception, before: RecordFailure | None = None, **given: object) -> RecordFailure:
    known: dict[str, object] = {"group": "g", "delays_s": (1.5, 60), "is_given_up": False, "now_ms": 5_000}
    return failed_again(RECORD, before, error, **{**known, **given})  # type: ignore[arg-type]


def test_what_is_written_on_a_record_does_not_come_off_again() -> None:
    first = failure(ValueError("no such customer"))
    headers = marked(OWN, first)
    assert headers[: len(OWN)] == OWN
    assert read_failure(headers) == first
    assert stripped(headers) == OWN
    assert marked(headers, first) == headers, "one failure at a time"
    moved = RECORD._replace(topic="orders.retry.1", partition=0, offset=0, timestamp_ms=9, headers=headers)
    assert as_it_was(moved, first) == RECORD


def test_the_count_or_the_time_of_the_first_failure_is_lost_on_the_way() -> None:
    first = failure(ValueError("one"))
    second = failure(KeyError("two"), first, now_ms=7_000)
    third = failure(RuntimeError("three"), second, now_ms=9_000)
    assert (first.due_ms, second.due_ms, third.due_ms) == (6_500, 67_000, None)
    assert [each.attempts for each in (first, second, third)] == [1, 2, 3]
    assert third.first_failure_ms == 5_000
    assert (third.exception_class, third.exception_message) == ("RuntimeError", "three")
    assert read_failure(marked((), third)) == third


def test_who_gives_up_waits_for_another_try() -> None:
    assert failure(ValueError(), is_given_up=True).due_ms is None
    assert failure(ValueError(), delays_s=()).due_ms is None


def test_an_exception_keeps_its_record_from_being_moved() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise OSError

    assert failure(Broken()).exception_message == "<its text raised OSError>"
    assert failure(Broken()).exception_class.endswith("Broken")
    assert len(failure(ValueError("x" * 10_000)).exception_message) == MESSAGE_MAX_LENGTH
    headers = marked((), failure(ValueError("\ud800")))
    assert read_failure(headers) is not None


@pytest.mark.parametrize("name", ["topic", "partition", "offset", "timestamp", "group", "attempts"])
def test_headers_that_somebody_changed_are_believed(name: str) -> None:
    headers = marked((), failure(ValueError()))
    assert read_failure(tuple(each for each in headers if each[0] != PREFIX + name)) is None
    if name not in ("topic", "group"):
        assert read_failure((*headers, (PREFIX + name, b"many"))) is None


def test_a_foreign_dead_letter_has_no_way_home() -> None:
    assert original_topic((("__connect.errors.topic", b"orders"),)) == "orders"
    assert original_topic((("kafka_dlt-original-topic", b"orders"),)) == "orders"
    assert original_topic(marked((("__connect.errors.topic", b"others"),), failure(ValueError()))) == "orders"
    assert original_topic((("topic", b"orders"),)) is None
