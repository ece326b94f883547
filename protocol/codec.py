"""Any message of any API and version, between bytes and `Message`.

Owns the readers and writers: compiled from the tables in `schemas/` when a version of a message is first met, kept for
good (the number of versions bounds them). Handlers need not care about versions: a decoded message has every field that
any version has, and a response may be given every field that any version has.

Bounds (of what comes from a peer): see `limits` and `reader_source`. Nothing is allocated by what a message claims.
"""

import struct
from collections.abc import Callable, Iterable
from typing import cast

from penstock.protocol.api import ApiKey
from penstock.protocol.errors import DecodeError
from penstock.protocol.limits import (
    REQUEST_ELEMENT_COUNT_MAX,
    RESPONSE_ELEMENT_COUNT_MAX,
    STRING_SIZE_BYTES_MAX,
)
from penstock.protocol.message import Message
from penstock.protocol.primitives import ONE_BYTE, decode_uvarint, encode_uvarint
from penstock.protocol.reader_source import reader_source
from penstock.protocol.schema import Schema, load_schema
from penstock.protocol.writer_source import writer_source

Buffer = bytes | bytearray | memoryview
Reader = Callable[[Buffer, int], Message]
Writer = Callable[[Message], bytes]

_request_readers: dict[tuple[int, int], Reader] = {}
_response_readers: dict[tuple[int, int], Reader] = {}
_request_writers: dict[tuple[int, int], Writer] = {}
_response_writers: dict[tuple[int, int], Writer] = {}


def decode_request(api_key: int, version: int, body: Buffer) -> Message:
    """The request at the beginning of `body`; bytes behind it are ignored, as Kafka does, since clients rely on it.

    Fields that the version lacks hold their defaults.

    Records are views into `body`; everything else is copied. Raises DecodeError for bytes that are no such request, and
    ValueError for an API or version that no table describes.
    """
    read = _request_readers.get((api_key, version))
    if read is None:
        read = _request_readers[api_key, version] = _compile_reader(api_key, version, request=True)
    return _decode(read, api_key, version, body, REQUEST_ELEMENT_COUNT_MAX)


def decode_response(api_key: int, version: int, body: Buffer) -> Message:
    """The response in `body`; as `decode_request`, with the higher bound for what a broker may send."""
    read = _response_readers.get((api_key, version))
    if read is None:
        read = _response_readers[api_key, version] = _compile_reader(api_key, version, request=False)
    return _decode(read, api_key, version, body, RESPONSE_ELEMENT_COUNT_MAX)


def encode_request(api_key: int, version: int, request: Message) -> bytes:
    """The body of a request; as `encode_response`."""
    write = _request_writers.get((api_key, version))
    if write is None:
        write = _request_writers[api_key, version] = _compile_writer(api_key, version, request=True)
    return _encode(write, api_key, version, request)


def encode_response(api_key: int, version: int, response: Message) -> bytes:
    """The body of a response, with the fields that the version has; others are dropped, missing ones take their default.

    Raises TypeError for a field name that no version knows and for None where this version has no null, ValueError for a
    value that does not fit its field: all of them our own mistakes.
    """
    write = _response_writers.get((api_key, version))
    if write is None:
        write = _response_writers[api_key, version] = _compile_writer(api_key, version, request=False)
    return _encode(write, api_key, version, response)


def _decode(read: Reader, api_key: int, version: int, body: Buffer, element_count_max: int) -> Message:
    try:
        return read(body, element_count_max)
    except (struct.error, IndexError):
        raise DecodeError(f"{ApiKey(api_key).name} version {version} ends too early") from None
    except UnicodeDecodeError:
        raise DecodeError(f"a string in {ApiKey(api_key).name} version {version} is not UTF-8") from None


def _encode(write: Writer, api_key: int, version: int, message: Message) -> bytes:
    try:
        return write(message)
    except struct.error as error:
        raise ValueError(f"{ApiKey(api_key).name} version {version}: {error}") from error


class _Layouts(dict[str, Callable[..., object]]):
    """Bound methods of compiled struct layouts, by format."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.method = method

    def __missing__(self, layout: str) -> Callable[..., object]:
        bound: Callable[..., object] = getattr(struct.Struct(layout), self.method)
        self[layout] = bound
        return bound


_unpack_from = _Layouts("unpack_from")
_pack = _Layouts("pack")


def _compile_reader(api_key: int, version: int, *, request: bool) -> Reader:
    # librdkafka 2.16 writes the null list of Metadata 13 in four bytes instead of one, and Kafka ignores the three left over
    schema = load_schema(api_key, version, request=request)
    return compile_reader(schema, f"{ApiKey(api_key).name} {version}", ends_with_message=not request)


def compile_reader(schema: Schema, title: str, *, ends_with_message: bool) -> Reader:
    """A reader of any schema; what it raises besides DecodeError is struct.error, IndexError and UnicodeDecodeError (see `_decode`)."""
    source = reader_source(schema, ends_with_message=ends_with_message)
    namespace: dict[str, object] = {
        "Message": Message,
        "STRING_MAX": STRING_SIZE_BYTES_MAX,
        "U": _unpack_from,
        "bad_count": _bad_count,
        "bad_length": _bad_length,
        "behind": _behind,
        "make": _make,
        "new": Message.__new__,
        "too_many": _too_many,
        "unpack": struct.unpack_from,
        "varint": decode_uvarint,
    }
    return cast(Reader, _compiled(source, f"read {title}", namespace, "read"))


def _compile_writer(api_key: int, version: int, *, request: bool) -> Writer:
    return compile_writer(load_schema(api_key, version, request=request), f"{ApiKey(api_key).name} {version}")


def compile_writer(schema: Schema, title: str) -> Writer:
    """A writer of any schema; raises struct.error, too, for numbers that do not fit (see `_encode`)."""
    source, constants = writer_source(schema)
    namespace: dict[str, object] = {
        **constants,
        "NOTHING": Message(),
        "ONE_BYTE": ONE_BYTE,
        "P": _pack,
        "STRING_MAX": STRING_SIZE_BYTES_MAX,
        "null": _null,
        "octets": _octets,
        "pack": struct.pack,
        "too_long": _too_long,
        "unknown": _unknown,
        "uuid": _uuid,
        "varint": encode_uvarint,
    }
    return cast(Writer, _compiled(source, f"write {title}", namespace, "write"))


def _compiled(source: str, title: str, namespace: dict[str, object], name: str) -> object:
    # what is run was made from our own tables: no byte of a peer has a part in it
    exec(compile(source, f"<{title}>", "exec"), namespace)  # noqa: S102
    return namespace[name]


def _make(fields: dict[str, object]) -> Message:
    return Message(**fields)


def _behind(count: int) -> DecodeError:
    return DecodeError(f"{count} bytes behind the message")


def _bad_length(name: str, length: int, remaining: int) -> DecodeError:
    return DecodeError(f"{name}: {length} bytes claimed where {remaining} remain")


def _bad_count(name: str, count: int, remaining: int) -> DecodeError:
    return DecodeError(f"{name}: {count} elements claimed in {remaining} bytes")


def _too_many() -> DecodeError:
    return DecodeError("too many array elements in one message")


def _unknown(struct_name: str, names: Iterable[str]) -> TypeError:
    return TypeError(f"{struct_name} has no field {', '.join(sorted(names))} in any version")


def _null(name: str) -> TypeError:
    return TypeError(f"{name} can't be null in this version")


def _too_long(name: str, size_bytes: int) -> ValueError:
    return ValueError(f"{name}: a string of {size_bytes} bytes")


def _uuid(name: str, value: bytes) -> bytes:
    if len(value) != 16:
        raise ValueError(f"{name}: a UUID of {len(value)} bytes")
    return value


def _octets(name: str, value: Buffer) -> Buffer:
    if isinstance(value, memoryview):
        return value.cast("B") if value.nbytes != len(value) else value
    if not isinstance(value, bytes | bytearray):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"{name} needs bytes, not {type(value).__name__}")
    return value
