"""The record batch writers and readers of other clients, behind one typed face."""

import importlib
import warnings
from collections.abc import Sequence
from typing import Any, Protocol

from tests.support.requirements import need

from penstock.protocol.compression import Codec
from penstock.protocol.records import Record


class RecordPeer(Protocol):
    """Another client's idea of the format."""

    name: str

    def build(self, records: Sequence[Record], codec: Codec) -> bytes:
        """One batch as this client's producer sends it."""
        ...

    def read(self, batch: bytes) -> list[Record]:
        """What this client's consumer makes of a batch; its checksum is verified."""
        ...


class _PythonPeer:
    def __init__(self, name: str) -> None:
        self.name = name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # they call what Python deprecates
            self._records: Any = importlib.import_module(f"{name}.record.default_records")  # untyped
            self._codecs: Any = importlib.import_module(f"{name}.codec")

    def _need(self, codec: Codec) -> None:
        if codec is not Codec.NONE:
            supported = getattr(self._codecs, f"has_{codec.name.lower()}")()
            need(supported, f"{self.name}'s library for {codec.name.lower()}")

    def build(self, records: Sequence[Record], codec: Codec) -> bytes:
        self._need(codec)
        builder = self._records.DefaultRecordBatchBuilder(2, int(codec), False, 77, 3, 2**31 - 2, 1 << 30)
        for record in records:
            headers = list(record.headers)
            builder.append(record.offset, record.timestamp, record.key, record.value, headers)
        return bytes(builder.build())

    def read(self, batch: bytes) -> list[Record]:
        reader = self._records.DefaultRecordBatch(bytearray(batch))
        self._need(Codec(reader.compression_type))
        assert reader.validate_crc()
        found: list[Record] = []
        for each in reader:
            headers = tuple(
                (str(key), None if value is None else bytes(value)) for key, value in each.headers
            )
            found.append(Record(each.offset, each.timestamp, each.key, each.value, headers))
        return found


def peers() -> list[RecordPeer]:
    """aiokafka (its C extension) and kafka-python."""
    return [_PythonPeer("aiokafka"), _PythonPeer("kafka")]
