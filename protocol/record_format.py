"""Structures that brokers store as records of internal topics: an int16 that says what follows, then the fields.

Owns the one form of `__consumer_offsets` keys and values (and `__transaction_state`'s later): tables as in `schemas/`, read and written by
the same compiled code as requests, with the same bounds. Knows no kind of record: those are in `group_records` and its like.

The int16 of a key is the kind of its record, that of a value its version. Source: Kafka's `CoordinatorRecordSerde`.
"""

import struct

from penstock.protocol.codec import Buffer, Reader, Writer, compile_reader, compile_writer
from penstock.protocol.errors import DecodeError
from penstock.protocol.message import Message
from penstock.protocol.schema import Schema
from penstock.protocol.schemas import Structs

RECORD_ELEMENT_COUNT_MAX = 1_000_000
"""Elements of all arrays of one record; a record is bounded by max.message.bytes anyway."""
NEVER = 32_767

_PREFIX = struct.Struct(">h")


class UnknownRecordVersion(DecodeError):
    """A kind of key or a version of a value that no table describes: written by something newer, or by something else."""

    def __init__(self, name: str, version: int) -> None:
        super().__init__(f"{name}: version {version} is not known")
        self.version = version


class RecordFormat:
    """A key or a value in all its versions."""

    def __init__(self, name: str, structs: Structs, *, versions: range, flexible_from: int = NEVER) -> None:
        self.name = name
        self.versions = versions
        self._structs = structs
        self._flexible_from = flexible_from
        self._readers: dict[int, Reader] = {}
        self._writers: dict[int, tuple[bytes, Writer]] = {}

    def encode(self, version: int, message: Message) -> bytes:
        """The bytes of `message`, prefix included; fields that the version lacks are dropped, missing ones take their default.

        Raises TypeError and ValueError as `codec.encode_response` does.
        """
        known = self._writers.get(version)
        if known is None:
            writer = compile_writer(self._schema(version), f"{self.name} {version}")
            known = self._writers[version] = _PREFIX.pack(version), writer
        prefix, write = known
        try:
            return prefix + write(message)
        except struct.error as error:
            raise ValueError(f"{self.name} version {version}: {error}") from error

    def decode(self, data: Buffer) -> Message:
        """The message in `data`; its version is `version_of(data)`. Fields that the version lacks hold their defaults.

        Raises UnknownRecordVersion, and DecodeError for bytes that are no such structure.
        """
        version = version_of(data)
        read = self._readers.get(version)
        if read is None:
            if version not in self.versions:
                raise UnknownRecordVersion(self.name, version)
            title = f"{self.name} {version}"
            read = self._readers[version] = compile_reader(
                self._schema(version), title, ends_with_message=True
            )
        try:
            return read(memoryview(data)[_PREFIX.size :], RECORD_ELEMENT_COUNT_MAX)
        except (struct.error, IndexError):
            raise DecodeError(f"{self.name} version {version} ends too early") from None
        except UnicodeDecodeError:
            raise DecodeError(f"a string in {self.name} version {version} is not UTF-8") from None

    def _schema(self, version: int) -> Schema:
        assert version in self.versions, f"{self.name} has no version {version}"
        return Schema(self._structs, version, version >= self._flexible_from)


def version_of(data: Buffer) -> int:
    """The int16 that a key or a value begins with. Raises DecodeError where there is none."""
    if len(data) < _PREFIX.size:
        raise DecodeError(f"a record's key or value of {len(data)} bytes")
    version: int = _PREFIX.unpack_from(data)[0]
    return version


__all__ = ["RecordFormat", "UnknownRecordVersion", "version_of"]
