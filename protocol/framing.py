"""The headers around a message: request headers 1 and 2, response headers 0 and 1, and the length in front of a frame.

Owns the decision whether a request is for an API and version that we serve. Knows no bodies and reads no socket: the
frame reader is the connection's. Everything here is on the hot path.
Source: Kafka's RequestHeader.json and ResponseHeader.json; KIP-511 for ApiVersions.
"""

import struct
from dataclasses import dataclass

from penstock.protocol.api import FLEXIBLE_FROM, NEVER, SERVED, ApiKey
from penstock.protocol.errors import DecodeError
from penstock.protocol.primitives import skip_tagged_fields

_REQUEST = struct.Struct(">hhih").unpack_from
_RESPONSE_0 = struct.Struct(">ii").pack
_RESPONSE_1 = struct.Struct(">iix").pack

# (first version, last version, first flexible version) by key, in plain integers: enums are slow to compare
_SERVED = {
    key: (api.versions.start, api.versions.stop - 1, FLEXIBLE_FROM[key]) for key, api in SERVED.items()
}
_RESPONSE_1_FROM = {int(key): first for key, first in FLEXIBLE_FROM.items()}
_RESPONSE_1_FROM[int(ApiKey.API_VERSIONS)] = NEVER


@dataclass(slots=True)
class RequestHeader:
    """What stands in front of a request's body; the body begins at `body_position` of the frame."""

    api_key: int
    api_version: int
    correlation_id: int
    client_id: str | None
    body_position: int


class UnservedRequest(DecodeError):
    """A well-formed header for something that we don't serve; the body was not looked at."""

    def __init__(self, api_key: int, api_version: int, correlation_id: int, client_id: str | None) -> None:
        super().__init__(f"API key {api_key} version {api_version} is not served")
        self.api_key = api_key
        self.api_version = api_version
        self.correlation_id = correlation_id
        self.client_id = client_id


class UnknownApi(UnservedRequest):
    """No version of this API is served: Kafka closes the connection."""


class UnsupportedVersion(UnservedRequest):
    """The API is served, this version is not. For ApiVersions the answer is version 0 with error 35 (KIP-511)."""


def read_request_header(frame: memoryview) -> RequestHeader:
    """The header of a frame that is given without its length.

    Raises UnknownApi or UnsupportedVersion where the body could not be decoded anyway, DecodeError for bytes that are
    no header.
    """
    try:
        api_key, version, correlation_id, size_bytes = _REQUEST(frame)
        position = 10
        client_id = None
        if size_bytes >= 0:
            position = 10 + size_bytes
            client_id = str(frame[10:position], "utf-8")
            if position > len(frame):
                raise DecodeError(f"a client id of {size_bytes} bytes in a frame of {len(frame)}")
        elif size_bytes != -1:
            raise DecodeError(f"a client id of {size_bytes} bytes")
    except struct.error:
        raise DecodeError(f"a frame of {len(frame)} bytes is too short for a request header") from None
    except UnicodeDecodeError:
        raise DecodeError("the client id is not UTF-8") from None
    try:
        first, last, flexible_from = _SERVED[api_key]
    except KeyError:
        raise UnknownApi(api_key, version, correlation_id, client_id) from None
    if not first <= version <= last:
        raise UnsupportedVersion(api_key, version, correlation_id, client_id)
    if version >= flexible_from:
        position, _ = skip_tagged_fields(frame, position, 0)
    return RequestHeader(api_key, version, correlation_id, client_id, position)


def response_prefix(api_key: int, api_version: int, correlation_id: int, body_size_bytes: int) -> bytes:
    """The length of the frame and the response header, to be sent before a body of `body_size_bytes`.

    KeyError for an API that Kafka's clients don't have.
    """
    if api_version < _RESPONSE_1_FROM[api_key]:
        return _RESPONSE_0(body_size_bytes + 4, correlation_id)
    return _RESPONSE_1(body_size_bytes + 5, correlation_id)
