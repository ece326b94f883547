"""The idempotent producer by raw requests: what is sent again is stored once, what is missing is told."""

from tests.support.batches import encode_batch
from tests.support.errors import ErrorCode
from tests.support.processes import RunningServer
from tests.support.topics import create_topic, fetch_values, init_producer_id, produce, produce_request
from tests.support.wire import Connection, connect


def batch(producer: tuple[int, int], sequence: int, *values: bytes) -> bytes:
    return encode_batch(values, producer_id=producer[0], producer_epoch=producer[1], base_sequence=sequence)


def outcome(connection: Connection, topic: str, records: bytes) -> tuple[ErrorCode, int]:
    answer = produce(connection, topic, records)
    return ErrorCode(answer.error_code), answer.base_offset


def test_two_producers_get_the_same_id(connection: Connection) -> None:
    ids = [init_producer_id(connection) for _ in range(5)]
    assert len(set(ids)) == 5
    assert {epoch for _, epoch in ids} == {0}


def test_a_batch_sent_again_is_stored_twice(connection: Connection) -> None:
    topic = create_topic(connection, "again")
    producer = init_producer_id(connection)
    first, second = batch(producer, 0, b"a", b"b"), batch(producer, 2, b"c")
    assert outcome(connection, topic, first) == (ErrorCode.none, 0)
    assert outcome(connection, topic, first) == (ErrorCode.none, 0)
    assert outcome(connection, topic, second) == (ErrorCode.none, 2)
    assert outcome(connection, topic, first) == (ErrorCode.none, 0)
    assert outcome(connection, topic, second) == (ErrorCode.none, 2)
    assert fetch_values(connection, topic) == [(0, b"a"), (1, b"b"), (2, b"c")]


def test_each_of_the_last_five_batches_sent_again_is_stored_twice(connection: Connection) -> None:
    topic = create_topic(connection, "five")
    producer = init_producer_id(connection)
    sent = [batch(producer, number, b"%d" % number) for number in range(7)]
    for number, records in enumerate(sent):
        assert outcome(connection, topic, records) == (ErrorCode.none, number)
    for number in range(2, 7):
        assert outcome(connection, topic, sent[number]) == (ErrorCode.none, number)
    # older than the last five: the broker does not know its offset any more, but knows that it is old
    code, offset = outcome(connection, topic, sent[0])
    assert (code, offset) in {
        (ErrorCode.duplicate_sequence_number, -1),
        (ErrorCode.out_of_order_sequence_number, -1),
    }
    assert len(fetch_values(connection, topic)) == 7


def test_a_gap_in_the_sequence_is_stored(connection: Connection) -> None:
    topic = create_topic(connection, "gap")
    producer = init_producer_id(connection)
    assert outcome(connection, topic, batch(producer, 0, b"a")) == (ErrorCode.none, 0)
    late = outcome(connection, topic, batch(producer, 2, b"c"))
    assert late == (ErrorCode.out_of_order_sequence_number, -1)
    assert outcome(connection, topic, batch(producer, 1, b"b")) == (ErrorCode.none, 1)
    assert fetch_values(connection, topic) == [(0, b"a"), (1, b"b")]


def test_a_stale_epoch_is_stored(connection: Connection) -> None:
    topic = create_topic(connection, "stale")
    producer_id, epoch = init_producer_id(connection)
    bumped = (producer_id, epoch + 1)
    assert outcome(connection, topic, batch((producer_id, epoch), 0, b"a")) == (ErrorCode.none, 0)
    assert outcome(connection, topic, batch(bumped, 0, b"b")) == (ErrorCode.none, 1)
    stale = outcome(connection, topic, batch((producer_id, epoch), 1, b"c"))
    assert stale == (ErrorCode.invalid_producer_epoch, -1)
    assert [value for _, value in fetch_values(connection, topic)] == [b"a", b"b"]


def test_a_new_epoch_that_does_not_start_at_zero_is_stored(connection: Connection) -> None:
    topic = create_topic(connection, "new-epoch")
    producer_id, epoch = init_producer_id(connection)
    assert outcome(connection, topic, batch((producer_id, epoch), 0, b"a")) == (ErrorCode.none, 0)
    skipped = outcome(connection, topic, batch((producer_id, epoch + 1), 3, b"b"))
    assert skipped == (ErrorCode.out_of_order_sequence_number, -1)


def test_the_sequence_does_not_wrap(connection: Connection) -> None:
    """After 2^31 - 1 comes 0, also inside a batch."""
    topic = create_topic(connection, "wrap")
    producer = init_producer_id(connection)
    last = 2**31 - 1
    first = outcome(connection, topic, batch(producer, last - 1, b"a", b"b", b"c"))
    assert first == (ErrorCode.none, 0)  # nothing is known of the producer, so it may start anywhere
    assert outcome(connection, topic, batch(producer, 1, b"d")) == (ErrorCode.none, 3)
    assert outcome(connection, topic, batch(producer, 3, b"f"))[0] == ErrorCode.out_of_order_sequence_number


def test_producers_of_two_partitions_share_a_sequence(connection: Connection) -> None:
    topic = create_topic(connection, "apart", partitions=2)
    producer = init_producer_id(connection)
    for index in range(2):
        answer = produce(connection, topic, batch(producer, 0, b"x"), partition=index)
        assert (answer.error_code, answer.base_offset) == (0, 0)


def test_two_connections_in_flight_store_a_batch_twice(server: RunningServer, connection: Connection) -> None:
    topic = create_topic(connection, "in-flight")
    producer = init_producer_id(connection)
    with connect(server.bootstrap) as other:
        for number in range(20):
            records = batch(producer, number, b"%d" % number)
            request = produce_request(topic, records)
            sent = [(each, each.send("produce", 9, request)) for each in (connection, other)]
            for each, correlation_id in sent:
                reply = each.receive("produce", 9, correlation_id)
                answer = reply.responses[0].partition_responses[0]
                assert (answer.error_code, answer.base_offset) == (0, number)
    assert len(fetch_values(connection, topic)) == 20
