"""Varints, tagged fields, strings and array counts: what the hand-packed messages are made of.

Owns their bounds: a varint has at most five bytes and 32 bits, a tagged field and a string stay within their message, an
array has no more elements than the bytes that remain could hold. Source: KIP-482 and Kafka's protocol guide.
"""

from penstock.protocol.errors import DecodeError
from penstock.protocol.limits import REQUEST_ELEMENT_COUNT_MAX, STRING_SIZE_BYTES_MAX

Buffer = bytes | bytearray | memoryview

ONE_BYTE: tuple[bytes, ...] = tuple(bytes((value,)) for value in range(128))
"""Every one-byte varint: most lengths and counts are below 128."""


def encode_uvarint(value: int) -> bytes:
    """`value` (0 to 2^32 - 1) in one to five bytes."""
    if 0 <= value < 128:
        return ONE_BYTE[value]
    if not 0 <= value < 1 << 32:
        raise ValueError(f"{value} does not fit an unsigned 32-bit varint")
    encoded = bytearray()
    while value >= 128:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def decode_uvarint(buffer: Buffer, position: int) -> tuple[int, int]:
    """The varint at `position` and the position behind it; DecodeError past five bytes or 32 bits, or at the end."""
    value = shift = 0
    try:
        while True:
            byte = buffer[position]
            position += 1
            value |= (byte & 127) << shift
            if byte < 128:
                break
            shift += 7
            if shift > 28:
                raise DecodeError("a varint of more than five bytes")
    except IndexError:
        raise DecodeError("the message ends inside a varint") from None
    if value >= 1 << 32:
        raise DecodeError("a varint of more than 32 bits")
    return value, position


def read_tagged_fields(
    buffer: Buffer, position: int, total: int
) -> tuple[list[tuple[int, int, int]], int, int]:
    """The tagged fields at `position` as (tag, start, end), the position behind them all, and the new total of elements.

    Only whole fields within the buffer are returned; DecodeError otherwise. Order and repetition are the caller's
    business: Kafka's own reader takes the last of two.
    """
    count, position = decode_uvarint(buffer, position)
    end = len(buffer)
    check_count(count, end - position, 2, total)
    found: list[tuple[int, int, int]] = []
    for _ in range(count):
        tag, position = decode_uvarint(buffer, position)
        size_bytes, position = decode_uvarint(buffer, position)
        if size_bytes > end - position:
            raise DecodeError(f"tagged field {tag} claims {size_bytes} bytes of {end - position}")
        found.append((tag, position, position + size_bytes))
        position += size_bytes
    return found, position, total + count


def skip_tagged_fields(buffer: Buffer, position: int, total: int) -> tuple[int, int]:
    """The position behind the tagged fields at `position`, none of which is known here, and the new total of elements."""
    if position < len(buffer) and buffer[position] == 0:
        return position + 1, total
    _, position, total = read_tagged_fields(buffer, position, total)
    return position, total


def read_string(buffer: memoryview, position: int, size_bytes: int) -> tuple[str, int]:
    """The string of `size_bytes` at `position` and the position behind it. UnicodeDecodeError is the caller's to map."""
    after = position + size_bytes
    if size_bytes < 0 or size_bytes > STRING_SIZE_BYTES_MAX or after > len(buffer):
        raise DecodeError(f"a string of {size_bytes} bytes where {len(buffer) - position} remain")
    return str(buffer[position:after], "utf-8"), after


def check_count(count: int, remaining: int, least_size_bytes: int, total: int) -> None:
    """Refuse an array of `count` elements that `remaining` bytes can't hold, or that makes the `total` too many."""
    if count < 0 or count > remaining // least_size_bytes:
        raise DecodeError(f"an array of {count} elements in {remaining} bytes")
    if total + count > REQUEST_ELEMENT_COUNT_MAX:
        raise DecodeError(f"more than {REQUEST_ELEMENT_COUNT_MAX} array elements in one request")


def read_compact_count(
    buffer: memoryview, position: int, least_size_bytes: int, total: int
) -> tuple[int, int]:
    """The checked count of a compact array at `position` and the position behind the count. Null is refused."""
    count = buffer[position]
    if count >= 128:
        count, position = decode_uvarint(buffer, position)
    else:
        position += 1
    check_count(count - 1, len(buffer) - position, least_size_bytes, total)
    return count - 1, position
