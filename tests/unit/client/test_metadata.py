import pytest
from tests.support.scripted_broker import metadata_answer

from penstock.client.errors import BrokerError, TopicExists, UnknownTopic, broker_error
from penstock.client.metadata import Address, InvalidAddress, parse_address, parse_bootstrap, read_metadata
from penstock.protocol.codec import decode_response, encode_response
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("localhost", Address("localhost", 9092)),
        ("broker-1.example:19092", Address("broker-1.example", 19092)),
        (" 10.0.0.1:1 ", Address("10.0.0.1", 1)),
        ("[::1]:65535", Address("::1", 65535)),
        ("[fe80::1]", Address("fe80::1", 9092)),
    ],
)
def test_an_address_is_read_as_people_write_it(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        ":9092",
        "host:",
        "host:x",
        "host:0",
        "host:65536",
        "host:-1",
        "host:٣",
        "::1",
        "::1:9092",
        "[::1",
        "[]:9092",
        "kafka://host:9092",
        "ho st:1",
        "a/b",
    ],
)
def test_what_is_no_address_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidAddress) as caught:
        parse_address(text)
    assert repr(text) in str(caught.value)


def test_a_bootstrap_list_may_have_gaps_but_not_be_empty() -> None:
    assert parse_bootstrap("a:1, b,,") == [Address("a", 1), Address("b", 9092)]
    for empty in ("", " , "):
        with pytest.raises(InvalidAddress, match="no bootstrap address"):
            parse_bootstrap(empty)


def test_a_topic_that_is_not_there_is_an_error_beside_those_that_are() -> None:
    answer = metadata_answer({1: ("a", 1)}, {"orders": [1, -1]})
    answer.topics.append(Message(name="gone", error_code=3))
    # As the codec hands it over: every field is there.
    answer = decoded(answer)
    metadata = read_metadata(answer)
    assert list(metadata.topics) == ["orders"]
    assert metadata.topics["orders"].partitions[1].leader == -1
    assert isinstance(metadata.topic_errors["gone"], UnknownTopic)
    assert metadata.nodes[1].address == Address("a", 1)


def test_a_broker_without_topic_ids_gives_none_and_not_zeros() -> None:
    answer = metadata_answer({1: ("a", 1)}, {"orders": [1]})
    answer.topics[0].topic_id = bytes(16)
    assert read_metadata(decoded(answer)).topics["orders"].topic_id is None


def decoded(answer: Message) -> Message:
    return decode_response(3, 12, encode_response(3, 12, answer))


def test_an_error_code_becomes_the_class_that_callers_branch_on() -> None:
    assert isinstance(broker_error(36, "it is there", subject="topic a"), TopicExists)
    assert (
        str(broker_error(36, "it is there", subject="topic a"))
        == "topic a: it is there (TOPIC_ALREADY_EXISTS)"
    )
    assert str(broker_error(7)) == "request timed out (REQUEST_TIMED_OUT)"
    assert type(broker_error(42)) is BrokerError


def test_an_error_code_of_a_later_kafka_is_told_by_its_number() -> None:
    error = broker_error(4711, "new trouble")
    assert error.code == ErrorCode.UNKNOWN_SERVER_ERROR
    assert "error code 4711: new trouble" in str(error)


def test_addresses_that_are_no_text_are_told_as_wrong_addresses() -> None:
    with pytest.raises(InvalidAddress, match="is no text; write addresses as 'host:port,host:port'"):
        parse_bootstrap(["localhost:9092"])
