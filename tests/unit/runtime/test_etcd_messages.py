"""What etcd's answers mean: which say that nothing was done, which that nobody knows, and which are final."""

import json
from typing import Any

import pytest

from penstock.runtime.etcd_messages import (
    Keys,
    MaybeDone,
    NotDone,
    Refused,
    TokenRefused,
    answer_of,
    cancellation_of,
    entry_of,
    failure_of,
    metadata_error,
    transaction,
)
from penstock.runtime.metadata import (
    Compare,
    Entry,
    LeaseNotFound,
    MetadataError,
    MetadataUnavailable,
    Put,
    TransactionTooLarge,
)


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (14, "etcdserver: no leader", NotDone),
        (8, "etcdserver: too many requests", NotDone),
        (14, "all SubConns are in TransientFailure", NotDone),
        (14, "etcdserver: request timed out", MaybeDone),
        (14, "etcdserver: request timed out, possibly due to previous leader failure", MaybeDone),
        (14, "etcdserver: leader changed", MaybeDone),
        (14, "etcdserver: server stopped", MaybeDone),
        (14, "transport is closing", MaybeDone),
        (4, "context deadline exceeded", MaybeDone),
        (1, "context canceled", MaybeDone),
        (13, "stream terminated", MaybeDone),
        (2, "what nobody has seen", MaybeDone),
        (99, "a code of the future", MaybeDone),
        (16, "etcdserver: invalid auth token", TokenRefused),
        (3, "etcdserver: user name is empty", TokenRefused),
        (3, "etcdserver: revision of auth store is old", Refused),
        (3, "etcdserver: revision in header is old", TokenRefused),
        (7, "etcdserver: permission denied", Refused),
        (5, "etcdserver: requested lease not found", Refused),
        (8, "etcdserver: mvcc: database space exceeded", Refused),
        (11, "etcdserver: mvcc: required revision has been compacted", Refused),
    ],
)
def test_what_a_status_says_of_what_was_done(code: int, text: str, kind: type[Exception]) -> None:
    assert type(failure_of({"error": text, "code": code, "message": text})) is kind
    nested = {"error": {"grpc_code": code, "http_code": 500, "message": text}}
    assert type(failure_of(nested)) is kind, "as a stream tells it"


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (5, "requested lease not found", LeaseNotFound),
        (3, "too many operations in txn request", TransactionTooLarge),
        (3, "request is too large", TransactionTooLarge),
        (8, "mvcc: database space exceeded", MetadataUnavailable),
        (7, "permission denied", MetadataError),
        (3, "duplicate key given in txn request", MetadataError),
    ],
)
def test_a_refusal_in_the_words_of_the_port(code: int, text: str, kind: type[Exception]) -> None:
    error = metadata_error(Refused(code, text), "etcd at one:2379")
    assert type(error) is kind
    assert "etcd at one:2379" in str(error)
    assert text in str(error)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, b"404 page not found\n", Refused),
        (502, b"<html>Bad gateway</html>", MaybeDone),
        (200, b"", MaybeDone),
        (200, b"[]", MaybeDone),
        (200, b"\xff{", MaybeDone),
        (503, b'{"error":"etcdserver: no leader","code":14}', NotDone),
    ],
)
def test_an_answer_that_is_none(status: int, body: bytes, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        answer_of(status, body)


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("rpc error: code = Unauthenticated desc = etcdserver: invalid auth token", TokenRefused),
        ("rpc error: code = InvalidArgument desc = etcdserver: user name is empty", TokenRefused),
        ("rpc error: code = PermissionDenied desc = etcdserver: permission denied", Refused),
        ("etcdserver: permission denied", Refused),
        ("rpc error: code = Unavailable desc = etcdserver: no leader", NotDone),
        ("", NotDone),
    ],
)
def test_why_a_watch_was_cancelled(reason: str, kind: type[Exception]) -> None:
    assert type(cancellation_of(reason)) is kind


def test_a_transaction_that_only_compares_reads_too_or_etcd_would_answer_from_old_state() -> None:
    message = transaction([Compare("/a", mod_revision=5)], [], Keys())
    assert [list(operation) for operation in message["success"]] == [["request_range"]]
    assert "serializable" not in json.dumps(message)


def test_a_compare_of_both_revisions_is_two() -> None:
    message = transaction([Compare("/a", mod_revision=5, create_revision=4)], [Put("/a", b"")], Keys("/p"))
    assert [compare["target"] for compare in message["compare"]] == ["MOD", "CREATE"]
    assert {compare["key"] for compare in message["compare"]} == {"L3AvYQ=="}


@pytest.mark.parametrize(
    ("prefix", "asked", "begin", "end"),
    [
        ("", "", b"/", b"0"),
        ("", "/a/", b"/a/", b"/a0"),
        ("/p", "", b"/p/", b"/p0"),
        ("/p", "/ä", b"/p/\xc3\xa4", b"/p/\xc3\xa5"),
    ],
)
def test_the_span_of_a_prefix(prefix: str, asked: str, begin: bytes, end: bytes) -> None:
    import base64

    span = Keys(prefix).span(asked)
    assert (base64.b64decode(span["key"]), base64.b64decode(span["range_end"])) == (begin, end)


def test_a_key_that_is_no_text_is_shown_and_no_error() -> None:
    pair: dict[str, Any] = {"key": "L3Av/w==", "mod_revision": "3"}
    assert entry_of(pair, Keys("/p")) == Entry("/\\xff", b"", 0, 3)
