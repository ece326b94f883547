"""etcd v3's JSON messages: what is sent, what comes back, and what an error means for the caller. Pure.

Knows no socket and no retry. In that JSON, bytes are base64, 64-bit numbers are text, and what is zero, empty or false is left out.
Source: etcd's `rpc.proto`, `rpctypes/error.go`, gRPC's status codes.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from penstock.runtime.metadata import (
    Compare,
    Delete,
    Entry,
    LeaseNotFound,
    MetadataError,
    MetadataUnavailable,
    Put,
    TransactionTooLarge,
    WatchEvent,
)

Json: TypeAlias = Mapping[str, Any]

_UNKNOWN = 2
_INVALID_ARGUMENT = 3
_NOT_FOUND = 5
_PERMISSION_DENIED = 7
_RESOURCE_EXHAUSTED = 8
_FAILED_PRECONDITION = 9
_OUT_OF_RANGE = 11
_UNAVAILABLE = 14
_UNAUTHENTICATED = 16

# Answers that are given before anything is proposed to the members.
_BEFORE_PROPOSAL = (
    "no leader",
    "not leader",
    "too many requests",
    "SubConns",
    "no connection available",
    "connection refused",
)
_STALE_TOKEN = ("invalid auth token", "user name is empty", "revision in header is old", "auth revision")


class CallFailed(Exception):
    """A call did not bring an answer that says that it was done."""


class NotDone(CallFailed):
    """Nothing was changed. Another member may do it, or the same one later."""


class MaybeDone(CallFailed):
    """The reply was lost, or says that nobody knows."""


class TokenRefused(CallFailed):
    """The authentication token is missing or has expired. Nothing was changed."""


class Refused(CallFailed):
    """The store's answer is no, from any member. Nothing was changed."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Keys:
    """How the port's keys are named in etcd: behind a prefix. A key begins with a slash; the empty prefix stands for all of them."""

    prefix: str = ""

    def outside(self, key: str) -> str:
        """A key as a JSON field."""
        return encoded((self.prefix + key).encode())

    def inside(self, field: str) -> str:
        """A JSON field as the port's key. What is no UTF-8 was written by somebody else, and stays printable."""
        return b64decode(field).decode(errors="backslashreplace").removeprefix(self.prefix)

    def span(self, prefix: str) -> dict[str, str]:
        """The fields `key` and `range_end` for all keys that start with a prefix."""
        begin = (self.prefix + (prefix or "/")).encode()
        # The last byte is below 255: UTF-8 has no such byte.
        return {"key": encoded(begin), "range_end": encoded(begin[:-1] + bytes([begin[-1] + 1]))}


def key_after(field: str) -> str:
    """The least key above one, both as JSON fields."""
    return encoded(b64decode(field) + b"\0")


def encoded(data: bytes) -> str:
    """Bytes as JSON has them."""
    return b64encode(data).decode("ascii")


def number(message: Json, name: str) -> int:
    """A 64-bit field; 0 where it was left out."""
    return int(message.get(name, 0))


def entry_of(pair: Json, keys: Keys) -> Entry:
    """A `KeyValue`."""
    return Entry(
        keys.inside(pair["key"]),
        b64decode(pair.get("value", "")),
        number(pair, "create_revision"),
        number(pair, "mod_revision"),
        number(pair, "lease"),
    )


def event_of(event: Json, keys: Keys) -> tuple[int, WatchEvent]:
    """An `Event` and the revision that it is of."""
    pair = event["kv"]
    deleted = event.get("type") == "DELETE"
    entry = None if deleted else entry_of(pair, keys)
    return number(pair, "mod_revision"), WatchEvent(keys.inside(pair["key"]), entry)


def transaction(compares: Sequence[Compare], operations: Sequence[Put | Delete], keys: Keys) -> Json:
    """A `TxnRequest`."""
    success = [_operation(operation, keys) for operation in operations]
    if not success:
        # etcd answers a transaction without operations from the member's own state, which may be old; one with a read it does not.
        success = [{"request_range": {"key": keys.outside("/"), "count_only": True}}]
    return {"compare": [one for each in compares for one in _compares(each, keys)], "success": success}


def _compares(compare: Compare, keys: Keys) -> list[Json]:
    key = keys.outside(compare.key)
    found: list[Json] = []
    if compare.mod_revision is not None:
        found.append(
            {"key": key, "target": "MOD", "result": "EQUAL", "mod_revision": str(compare.mod_revision)}
        )
    if compare.create_revision is not None:
        found.append(
            {
                "key": key,
                "target": "CREATE",
                "result": "EQUAL",
                "create_revision": str(compare.create_revision),
            }
        )
    return found


def _operation(operation: Put | Delete, keys: Keys) -> Json:
    key = keys.outside(operation.key)
    if isinstance(operation, Delete):
        return {"request_delete_range": {"key": key}}
    put = {"key": key, "value": encoded(operation.value)}
    return {"request_put": {**put, "lease": str(operation.lease_id)} if operation.lease_id else put}


def answer_of(status: int, body: bytes) -> Json:
    """The message in a reply. Raises the CallFailed that it means."""
    message = object_of(body)
    if message is None:
        if status == 404:
            raise Refused(_FAILED_PRECONDITION, "no etcd v3 with a JSON gateway (3.4 or newer) answers there")
        text = body[:100].decode(errors="backslashreplace").strip()
        raise MaybeDone(f"an answer that is not etcd's: HTTP {status} {text}")
    if "error" in message:
        raise failure_of(message)
    return message


def object_of(body: bytes) -> Json | None:
    """A JSON object; None where these bytes are none."""
    try:
        message = json.loads(body)
    except ValueError:
        return None
    return cast(Json, message) if isinstance(message, dict) else None


def failure_of(message: Json) -> CallFailed:
    """What an error message means. It is flat in a reply, and nested in a stream."""
    nested = message.get("error")
    error = cast(Json, nested) if isinstance(nested, dict) else message
    code = int(error.get("code") or error.get("grpc_code") or _UNKNOWN)
    return failure_of_code(code, str(error.get("message") or error.get("error")))


def failure_of_code(code: int, text: str) -> CallFailed:
    """What a gRPC status and its message mean."""
    text = text.removeprefix("etcdserver: ")
    if code == _UNAUTHENTICATED or (code == _INVALID_ARGUMENT and any(part in text for part in _STALE_TOKEN)):
        return TokenRefused(text)
    if code in (_UNAVAILABLE, _RESOURCE_EXHAUSTED) and any(part in text for part in _BEFORE_PROPOSAL):
        return NotDone(text)
    definite = (
        _INVALID_ARGUMENT,
        _NOT_FOUND,
        _PERMISSION_DENIED,
        _RESOURCE_EXHAUSTED,
        _FAILED_PRECONDITION,
        _OUT_OF_RANGE,
    )
    return Refused(code, text) if code in definite else MaybeDone(text)


def cancellation_of(reason: str) -> CallFailed:
    """What the reason of a cancelled watch means: `rpc error: code = Unauthenticated desc = …`, or only the description."""
    description = reason.rpartition("desc = ")[2]
    if "permission denied" in description:
        # etcd before 3.4.20 says so for an expired token, too.
        return Refused(_PERMISSION_DENIED, "permission denied")
    if "Unauthenticated" in reason or any(part in description for part in _STALE_TOKEN):
        return TokenRefused(description)
    return NotDone(description or "the watch was cancelled")


def is_permission(failure: Refused) -> bool:
    """Whether the user may not do that."""
    return failure.code == _PERMISSION_DENIED


def is_compacted(failure: Refused) -> bool:
    """Whether a revision was asked for that is gone."""
    return failure.code == _OUT_OF_RANGE and "compacted" in str(failure)


def is_lease_not_found(failure: Refused) -> bool:
    """Whether a lease has ended or never was."""
    return failure.code == _NOT_FOUND and "lease" in str(failure)


def is_authentication_off(failure: Refused) -> bool:
    """Whether etcd wants no user at all."""
    return failure.code == _FAILED_PRECONDITION and "authentication is not enabled" in str(failure)


def metadata_error(failure: Refused, who: str) -> MetadataError:
    """A refusal in the port's words; nothing was changed. `who` names the store and the user, for the message."""
    text = str(failure)
    if is_lease_not_found(failure):
        return LeaseNotFound(f"the lease has ended or never was: {who}: {text}")
    if "too many operations" in text or "request is too large" in text:
        return TransactionTooLarge(f"{who}: {text}")
    if failure.code == _RESOURCE_EXHAUSTED:
        return MetadataUnavailable(f"{who}: {text}")
    return MetadataError(f"{who}: {text}")
