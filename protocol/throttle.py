"""throttle_time_ms of an answer to Produce that is encoded already.

Owns where that field stands. The producer's path through the broker encodes an answer before it is known whether its client is over a quota, and
should not have to ask; so the rare answer that has to tell is written over. Source: Kafka's ProduceResponse.json.
"""

import struct

from penstock.protocol.produce import FIRST_FLEXIBLE

FIRST_WITH_THROTTLE_TIME = 1

_INT32 = struct.Struct(">i")
_NOTHING_BEHIND = b"\0"
"""The empty tagged fields at the end of a flexible version."""


def tell_produce_throttled(version: int, response: bytes, throttle_time_ms: int) -> bytes:
    """The whole response of that version, telling `throttle_time_ms`, unless it tells of a longer time already.

    One that names the new leaders of partitions stays as it is: its client has better things to do than to wait.
    """
    if version < FIRST_WITH_THROTTLE_TIME:
        return response
    position = len(response) - 4
    if version >= FIRST_FLEXIBLE:
        position -= 1
        # the endpoints of leaders end with a port, the rack and no tagged fields, which a time of 0 can't be mistaken for
        if response[-5:] != bytes(4) + _NOTHING_BEHIND:
            return response
    (told,) = _INT32.unpack_from(response, position)
    if told >= throttle_time_ms:
        return response
    return response[:position] + _INT32.pack(throttle_time_ms) + response[position + 4 :]
