"""Fetch sessions (KIP-227): DESIGN section 4, trap 10."""

from typing import Any

from tests.support import batches
from tests.support.errors import ErrorCode
from tests.support.topics import FETCH_VERSION, create_topic, fetch_request, produce_values
from tests.support.wire import Connection

NEW = (0, 0)


def told(reply: Any) -> dict[tuple[str, int], list[bytes]]:
    return {
        (each.topic, part.partition_index): [value for _, value in batches.values_of(part.records)]
        for each in reply.responses
        for part in each.partitions
    }


def open_session(connection: Connection, *places: tuple[str, int]) -> int:
    """A session on partitions that are all empty or read from 0; returns its id."""
    values = fetch_request(dict.fromkeys(places, 0), session=NEW)
    reply = connection.request("fetch", FETCH_VERSION, **values)
    assert reply.error_code == 0
    assert set(told(reply)) == set(places)
    assert reply.session_id != 0
    return int(reply.session_id)


def test_no_session_gets_one(connection: Connection) -> None:
    topic = create_topic(connection, "sessionless")
    reply = connection.request("fetch", FETCH_VERSION, **fetch_request({(topic, 0): 0}, session=(0, -1)))
    assert (reply.error_code, reply.session_id) == (0, 0)


def test_an_incremental_fetch_tells_unchanged_partitions(connection: Connection) -> None:
    topic = create_topic(connection, "incremental", partitions=3)
    session = open_session(connection, (topic, 0), (topic, 1), (topic, 2))
    produce_values(connection, topic, b"new", partition=1)
    reply = connection.request("fetch", FETCH_VERSION, **fetch_request({}, session=(session, 1)))
    assert (reply.error_code, reply.session_id) == (0, session)
    assert told(reply) == {(topic, 1): [b"new"]}


def test_an_incremental_fetch_forgets_the_moved_offset(connection: Connection) -> None:
    topic = create_topic(connection, "moved")
    session = open_session(connection, (topic, 0))
    produce_values(connection, topic, b"0")
    assert told(connection.request("fetch", FETCH_VERSION, **fetch_request({}, session=(session, 1))))
    produce_values(connection, topic, b"1")
    values = fetch_request({(topic, 0): 1}, session=(session, 2))
    assert told(connection.request("fetch", FETCH_VERSION, **values)) == {(topic, 0): [b"1"]}
    values = fetch_request({(topic, 0): 2}, session=(session, 3))
    assert told(connection.request("fetch", FETCH_VERSION, **values)) == {}


def test_a_long_poll_in_a_session_is_not_woken(connection: Connection) -> None:
    topic = create_topic(connection, "session-poll", partitions=2)
    session = open_session(connection, (topic, 0), (topic, 1))
    empty = fetch_request({}, session=(session, 1), max_wait_ms=100)
    reply = connection.request("fetch", FETCH_VERSION, **empty)
    assert (reply.error_code, told(reply)) == (0, {})


def test_a_forgotten_partition_is_told(connection: Connection) -> None:
    topic = create_topic(connection, "forgotten", partitions=2)
    session = open_session(connection, (topic, 0), (topic, 1))
    for index in range(2):
        produce_values(connection, topic, b"x", partition=index)
    values = fetch_request({}, session=(session, 1), forgotten=[(topic, 0)])
    assert told(connection.request("fetch", FETCH_VERSION, **values)) == {(topic, 1): [b"x"]}


def test_a_partition_added_later_is_not_told(connection: Connection) -> None:
    topic = create_topic(connection, "added", partitions=2)
    session = open_session(connection, (topic, 0))
    produce_values(connection, topic, b"x", partition=1)
    values = fetch_request({(topic, 1): 0}, session=(session, 1))
    assert told(connection.request("fetch", FETCH_VERSION, **values)) == {(topic, 1): [b"x"]}


def test_a_session_of_a_wrong_epoch_goes_on(connection: Connection) -> None:
    topic = create_topic(connection, "wrong-epoch")
    session = open_session(connection, (topic, 0))
    reply = connection.request("fetch", FETCH_VERSION, **fetch_request({}, session=(session, 5)))
    assert reply.error_code == ErrorCode.invalid_fetch_session_epoch
    assert reply.responses == []


def test_an_unknown_session_is_made_up(connection: Connection) -> None:
    reply = connection.request("fetch", FETCH_VERSION, **fetch_request({}, session=(2**30 + 7, 1)))
    assert reply.error_code == ErrorCode.fetch_session_id_not_found
    assert reply.responses == []


def test_a_closed_session_lives_on(connection: Connection) -> None:
    topic = create_topic(connection, "closed")
    session = open_session(connection, (topic, 0))
    produce_values(connection, topic, b"x")
    closing = fetch_request({(topic, 0): 0}, session=(session, -1))
    reply = connection.request("fetch", FETCH_VERSION, **closing)
    assert (reply.error_code, reply.session_id) == (0, 0)
    assert told(reply) == {(topic, 0): [b"x"]}
    later = connection.request("fetch", FETCH_VERSION, **fetch_request({}, session=(session, 1)))
    assert later.error_code == ErrorCode.fetch_session_id_not_found


def test_a_new_session_in_place_of_the_old_one_keeps_both(connection: Connection) -> None:
    topic = create_topic(connection, "renewed")
    old = open_session(connection, (topic, 0))
    values = fetch_request({(topic, 0): 0}, session=(old, 0))
    renewed = connection.request("fetch", FETCH_VERSION, **values)
    assert renewed.error_code == 0
    assert renewed.session_id not in (0, old)
    later = connection.request("fetch", FETCH_VERSION, **fetch_request({}, session=(old, 1)))
    assert later.error_code == ErrorCode.fetch_session_id_not_found
