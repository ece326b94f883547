"""Lines that become records, and records that become lines."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.cli.failure import CalledWrongly
from penstock.cli.record_format import format_named, record_as_json
from penstock.cli.record_input import BadLine, LineCutter, keyed_reader, read_json, unescaped
from penstock.client.metadata import TopicPartition
from penstock.consumer.batch import ConsumerBatch, parse_answer
from penstock.consumer.record import ConsumerRecord
from penstock.producer.producer import OutgoingRecord
from penstock.protocol.compression import Codec
from penstock.protocol.record_batch import TimestampType
from penstock.protocol.records import Record, encode_batch

HEADERS = (("n", b"v"), ("empty", None), ("raw", b"\xff"))


@given(
    st.lists(st.binary(max_size=9).filter(lambda line: b"\n" not in line)), st.integers(1, 20), st.booleans()
)
def test_lines_are_the_same_wherever_the_chunks_are_cut(
    lines: list[bytes], size: int, ends_with_line_feed: bool
) -> None:
    text = b"\n".join(lines) + (b"\n" if ends_with_line_feed and lines else b"")
    cutter = LineCutter(1000)
    found: list[bytes] = []
    for start in range(0, len(text), size):
        found += cutter.feed(text[start : start + size])
    found += cutter.feed(b"")
    expected = text.split(b"\n")
    assert found == (expected if expected[-1] else expected[:-1])


def test_an_endless_line_does_not_fill_the_memory() -> None:
    cutter = LineCutter(100)
    cutter.feed(b"x" * 100)
    with pytest.raises(BadLine, match="a line of more than 100 bytes"):
        cutter.feed(b"x")


def test_the_key_ends_at_the_first_separator() -> None:
    read = keyed_reader(b"::")
    assert read(b"k::v::w\r") == OutgoingRecord(b"v::w\r", key=b"k")
    assert read(b"::") == OutgoingRecord(b"", key=b"")
    with pytest.raises(BadLine, match="there is no key: '::' is not in the line"):
        read(b"k:v")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\t", "\t"),
        (r"a\n\r\\n", "a\n\r\\n"),
        (r"\x21\x7e", "!~"),
        (r"\q", r"\q"),
        ("\\", "\\"),
        (r"\0", "\0"),
    ],
)
def test_escapes_stand_for_what_cannot_be_typed(text: str, expected: str) -> None:
    assert unescaped(text) == expected


@pytest.mark.parametrize(
    ("line", "record"),
    [
        ('{"value":"v"}', OutgoingRecord(b"v")),
        ('{"value":null,"key":"k"}', OutgoingRecord(None, key=b"k")),
        ('{"value_base64":"/w==","key_base64":""}', OutgoingRecord(b"\xff", key=b"")),
        ('{"value":{"a":[1,"ü"]}}', OutgoingRecord('{"a":[1,"ü"]}'.encode())),
        ('{"value":7}', OutgoingRecord(b"7")),
        (
            '{"value":"v","partition":3,"timestamp":5,"headers":{"a":"b","c":null}}',
            OutgoingRecord(b"v", partition=3, timestamp_ms=5, headers=[("a", b"b"), ("c", None)]),
        ),
        ('{"value":"v","timestamp":-1,"topic":"t","offset":9}', OutgoingRecord(b"v")),
        ('{"value":"v","headers":[{"name":"a"}]}', OutgoingRecord(b"v", headers=[("a", None)])),
    ],
)
def test_a_json_line_says_all_of_a_record(line: str, record: OutgoingRecord) -> None:
    found = read_json(line.encode())
    assert isinstance(found, OutgoingRecord)
    assert (found.value, found.key, found.partition, found.timestamp_ms) == (
        record.value,
        record.key,
        record.partition,
        record.timestamp_ms,
    )
    assert list(found.headers) == list(record.headers)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"\xff", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[1]", "no JSON object"),
        (b"{}", "no value"),
        (b'{"key":"k"}', "no value"),
        (b'{"value":"v","vlaue":1}', "unknown field 'vlaue'"),
        (b'{"value":"v","value_base64":"/w=="}', "both value and value_base64"),
        (b'{"value_base64":"!"}', "value_base64 is no base64"),
        (b'{"value_base64":5}', "value_base64 is no base64"),
        (b'{"value":"\\ud800"}', "half of a surrogate pair"),
        (b'{"value":"v","partition":"0"}', "partition is no whole number"),
        (b'{"value":"v","partition":true}', "partition is no whole number"),
        (b'{"value":"v","timestamp":1.5}', "timestamp is no whole number"),
        (b'{"value":"v","timestamp":-2}', "timestamp is no whole number"),
        (b'{"value":"v","headers":5}', "headers is no list and no object"),
        (b'{"value":"v","headers":[5]}', "a header is no object"),
        (b'{"value":"v","headers":[{"value":"v"}]}', "a header has no name"),
    ],
)
def test_what_is_no_record_is_told_why(line: bytes, complaint: str) -> None:
    with pytest.raises(BadLine, match=complaint):
        read_json(line)


DATA = st.none() | st.binary(max_size=6) | st.text(max_size=6).map(lambda text: text.encode())


@given(
    DATA,
    DATA,
    st.integers(-1, 2**62),
    st.lists(st.tuples(st.text(max_size=4), DATA), max_size=3),
)
def test_what_is_written_as_json_is_read_as_the_same_record(
    key: bytes | None, value: bytes | None, timestamp_ms: int, headers: list[tuple[str, bytes | None]]
) -> None:
    record = ConsumerRecord("t", 2, 7, timestamp_ms, TimestampType.CREATE_TIME, key, value, tuple(headers), 0)
    text = json.dumps(record_as_json(record), ensure_ascii=False, separators=(",", ":"))
    assert "\n" not in text
    found = read_json(text.encode())
    assert isinstance(found, OutgoingRecord)
    assert (found.key, found.value, found.partition) == (key, value, 2)
    assert found.timestamp_ms == (None if timestamp_ms == -1 else timestamp_ms)
    assert list(found.headers) == headers


def batch_of(values: Sequence[bytes | None]) -> ConsumerBatch:
    records = [Record(40 + delta, 5, None, value) for delta, value in enumerate(values)]
    data = encode_batch(records, codec=Codec.NONE, base_offset=40)
    raws = parse_answer(memoryview(data), 40, None).batches
    for raw in raws:
        raw.open()
    return ConsumerBatch(TopicPartition("t", 2), raws, 40, 40 + len(values))


def test_text_is_the_value_and_a_line_feed() -> None:
    assert format_named("text")(batch_of([b"a\r", b"", None])) == [b"a\r\n", b"\n", b"\n"]


def test_lengths_of_nothing_are_minus_one() -> None:
    formatted = format_named("%o:%S:%K:%R|%s|")(batch_of([b"a", None]))
    assert formatted == [b"40:1:-1:\0\0\0\x01|a|", b"41:-1:-1:\xff\xff\xff\xff||"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("%%", b"%"), ("%%s%s", b"%sa"), ("%t-%p%%%%\\n", b"t-2%%\n"), ("%s%%", b"a%"), ("é%s", "éa".encode())],
)
def test_a_percent_sign_is_written_twice(text: str, expected: bytes) -> None:
    assert format_named(text)(batch_of([b"a"])) == [expected]


@pytest.mark.parametrize("text", ["%q", "%", "% s", "%s%", "jsn", ""])
def test_a_format_that_makes_no_sense_is_a_wrong_call(text: str) -> None:
    with pytest.raises(CalledWrongly, match="--format"):
        format_named(text)
