"""The tagged fields that Produce and Fetch responses share: who leads now, and where it listens (KIP-951)."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from penstock.protocol.errors import DecodeError
from penstock.protocol.primitives import (
    decode_uvarint,
    encode_uvarint,
    read_compact_count,
    read_string,
    skip_tagged_fields,
)

_EPOCH_OFFSET = struct.Struct(">iqx").pack
_OFFSET_EPOCH = struct.Struct(">qix").pack
_LEADER = struct.Struct(">iix").pack
_INT32 = struct.Struct(">i").pack
_READ_INT32 = struct.Struct(">i").unpack_from
_ENDPOINT_MIN_BYTES = 11


@dataclass(slots=True)
class NodeEndpoint:
    """Where a broker listens, told beside an error so that the client need not ask for metadata."""

    node_id: int
    host: str
    port: int
    rack: str | None = None


def encode_leader(tag: int, leader: tuple[int, int]) -> bytes:
    """A `current_leader` field: (broker id, leader epoch)."""
    return bytes((tag, 9)) + _LEADER(*leader)


def encode_diverging_epoch(tag: int, diverging: tuple[int, int]) -> bytes:
    """A `diverging_epoch` field: (epoch, end offset)."""
    return bytes((tag, 13)) + _EPOCH_OFFSET(*diverging)


def encode_snapshot_id(tag: int, snapshot_id: tuple[int, int]) -> bytes:
    """A `snapshot_id` field: (end offset, epoch)."""
    return bytes((tag, 13)) + _OFFSET_EPOCH(*snapshot_id)


def encode_node_endpoints(endpoints: Iterable[NodeEndpoint]) -> bytes:
    """The tagged-field section of a response whose only known field is `node_endpoints` with tag 0, which may be none."""
    encoded = [_encode_endpoint(endpoint) for endpoint in endpoints]
    if not encoded:
        return b"\0"
    value = encode_uvarint(len(encoded) + 1) + b"".join(encoded)
    return b"\1\0" + encode_uvarint(len(value)) + value


def _encode_endpoint(endpoint: NodeEndpoint) -> bytes:
    host = endpoint.host.encode()
    rack = b"\0"
    if endpoint.rack is not None:
        name = endpoint.rack.encode()
        rack = encode_uvarint(len(name) + 1) + name
    size = encode_uvarint(len(host) + 1)
    return b"".join((_INT32(endpoint.node_id), size, host, _INT32(endpoint.port), rack, b"\0"))


def decode_node_endpoints(field: memoryview, total: int) -> tuple[list[NodeEndpoint], int]:
    """What a `node_endpoints` field says, and the new total of elements. DecodeError, or struct.error for one that ends too early."""
    count, position = read_compact_count(field, 0, _ENDPOINT_MIN_BYTES, total)
    total += count
    endpoints: list[NodeEndpoint] = []
    for _ in range(count):
        (node_id,) = _READ_INT32(field, position)
        host, position = _read_nullable(field, position + 4)
        (port,) = _READ_INT32(field, position)
        rack, position = _read_nullable(field, position + 4)
        position, total = skip_tagged_fields(field, position, total)
        endpoints.append(NodeEndpoint(node_id, host or "", port, rack))
    if position != len(field):
        raise DecodeError(f"{len(field) - position} bytes behind the endpoints of new leaders")
    return endpoints, total


def _read_nullable(field: memoryview, position: int) -> tuple[str | None, int]:
    size_bytes, position = decode_uvarint(field, position)
    return (None, position) if size_bytes == 0 else read_string(field, position, size_bytes - 1)
