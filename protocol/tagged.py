"""The tagged fields that Produce and Fetch responses share: who leads now, and where it listens (KIP-951)."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from penstock.protocol.primitives import encode_uvarint

_EPOCH_OFFSET = struct.Struct(">iqx").pack
_OFFSET_EPOCH = struct.Struct(">qix").pack
_LEADER = struct.Struct(">iix").pack
_INT32 = struct.Struct(">i").pack


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
