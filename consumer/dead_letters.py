"""What is written on a record that failed: whose it was, what went wrong, how often, and when it is due again.

Owns the names of retry and dead letter topics, and the headers. Pure: bytes and values. Does not know who sends, nor when.

The headers are the record's own, followed by those that begin with `__penstock.errors.`; all of these are text (numbers in decimal, times in ms since 1970).
They follow Kafka Connect's (`__connect.errors.topic`, …, KIP-298) and Kafka Streams' (`__streams.errors.topic`, KIP-1034) in name and meaning.

Invariant: what `marked` adds, `stripped` takes away: a record that was redriven is as it was.
Sources: KIP-298; KIP-1034; Spring Kafka's non-blocking retries; Uber's "reliable reprocessing" (2018).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.consumer.record import ConsumerRecord, Headers

PREFIX = "__penstock.errors."
TOPIC = PREFIX + "topic"
PARTITION = PREFIX + "partition"
OFFSET = PREFIX + "offset"
TIMESTAMP = PREFIX + "timestamp"
GROUP = PREFIX + "group"
ATTEMPTS = PREFIX + "attempts"
FIRST_FAILURE = PREFIX + "first.failure.timestamp"
EXCEPTION_CLASS = PREFIX + "exception.class.name"
EXCEPTION_MESSAGE = PREFIX + "exception.message"
DUE = PREFIX + "due.timestamp"
"""Only in retry topics."""

MESSAGE_MAX_LENGTH = 1000
"""What is kept of an exception's text: the record shall still fit where it did."""
DEAD_LETTER_SUFFIX = ".dlq"
_FOREIGN_TOPICS = (
    "__connect.errors.topic",
    "__streams.errors.topic",
    "kafka_dlt-original-topic",
    "kafka_original-topic",
)
"""What others write on dead letters: Kafka Connect, Kafka Streams, Spring Kafka (two ages of it)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFailure:
    """Why a record is not where it was: in `topic`, `partition` at `offset`. Times in ms since 1970.

    `attempts` is how often it was tried and failed; `due_ms` when it may be tried again, None where it will not.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    group: str
    attempts: int
    first_failure_ms: int
    exception_class: str
    exception_message: str
    due_ms: int | None = None


def retry_topic(topic: str, attempts: int) -> str:
    """Where a record waits that has failed so often."""
    return f"{topic}.retry.{attempts}"


def dead_letter_topic(topic: str) -> str:
    """Where a record goes that is not tried any more."""
    return topic + DEAD_LETTER_SUFFIX


def marked(headers: Headers, failure: RecordFailure) -> Headers:
    """The headers with the failure written on, instead of one that was there."""
    texts = {
        TOPIC: failure.topic,
        PARTITION: str(failure.partition),
        OFFSET: str(failure.offset),
        TIMESTAMP: str(failure.timestamp_ms),
        GROUP: failure.group,
        ATTEMPTS: str(failure.attempts),
        FIRST_FAILURE: str(failure.first_failure_ms),
        EXCEPTION_CLASS: failure.exception_class,
        EXCEPTION_MESSAGE: failure.exception_message,
    }
    if failure.due_ms is not None:
        texts[DUE] = str(failure.due_ms)
    added = tuple((name, text.encode(errors="backslashreplace")) for name, text in texts.items())
    return (*stripped(headers), *added)


def stripped(headers: Headers) -> Headers:
    """The record's own headers."""
    return tuple(header for header in headers if not header[0].startswith(PREFIX))


def read_failure(headers: Headers) -> RecordFailure | None:
    """What `marked` wrote; None where it did not, or somebody has changed it."""
    texts = _texts(headers)
    try:
        due = texts.get(DUE)
        return RecordFailure(
            topic=texts[TOPIC],
            partition=int(texts[PARTITION]),
            offset=int(texts[OFFSET]),
            timestamp_ms=int(texts[TIMESTAMP]),
            group=texts[GROUP],
            attempts=int(texts[ATTEMPTS]),
            first_failure_ms=int(texts[FIRST_FAILURE]),
            exception_class=texts.get(EXCEPTION_CLASS, ""),
            exception_message=texts.get(EXCEPTION_MESSAGE, ""),
            due_ms=None if due is None else int(due),
        )
    except (KeyError, ValueError):
        return None


def original_topic(headers: Headers) -> str | None:
    """The topic that a dead letter came from, also of those of Kafka Connect, Kafka Streams and Spring Kafka; None where nobody wrote it down."""
    texts = _texts(headers)
    return next((texts[name] for name in (TOPIC, *_FOREIGN_TOPICS) if texts.get(name)), None)


def as_it_was(record: ConsumerRecord, failure: RecordFailure) -> ConsumerRecord:
    """A record of a retry topic with the place, time and headers that it had first."""
    return record._replace(
        topic=failure.topic,
        partition=failure.partition,
        offset=failure.offset,
        timestamp_ms=failure.timestamp_ms,
        headers=stripped(record.headers),
    )


def failed_again(
    record: ConsumerRecord,
    before: RecordFailure | None,
    error: Exception,
    *,
    group: str,
    delays_s: Sequence[float],
    is_given_up: bool,
    now_ms: int,
) -> RecordFailure:
    """What is written on a record (as it was first) whose next attempt failed. Without a `due_ms` it is a dead letter."""
    attempts = 1 if before is None else before.attempts + 1
    due_ms = None
    if attempts <= len(delays_s) and not is_given_up:
        due_ms = now_ms + round(delays_s[attempts - 1] * 1000)
    return RecordFailure(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp_ms=record.timestamp_ms,
        group=group,
        attempts=attempts,
        first_failure_ms=now_ms if before is None else before.first_failure_ms,
        exception_class=_class_name(type(error)),
        exception_message=_message(error),
        due_ms=due_ms,
    )


def _class_name(kind: type[Exception]) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _message(error: Exception) -> str:
    try:
        return str(error)[:MESSAGE_MAX_LENGTH]
    except Exception as broken:  # noqa: BLE001 - an exception that can't tell its reason shall not keep the record from being moved
        return f"<its text raised {type(broken).__name__}>"


def _texts(headers: Headers) -> dict[str, str]:
    return {name: value.decode(errors="replace") for name, value in headers if value is not None}


__all__ = [
    "DEAD_LETTER_SUFFIX",
    "PREFIX",
    "RecordFailure",
    "as_it_was",
    "dead_letter_topic",
    "failed_again",
    "marked",
    "original_topic",
    "read_failure",
    "retry_topic",
    "stripped",
]
