"""The broker's own exceptions.

Owns: the error that carries a Kafka code to a client, and the errors that end or refuse a start. Knows nothing of the
wire: a handler turns an `ApiError` into the error fields of its response.
"""

from penstock.errors import PenstockError
from penstock.protocol.errors import ErrorCode


class ApiError(PenstockError):
    """A request, or one entry of it, was refused; nothing was changed unless the code says that this is unknown.

    `code` goes on the wire as it is; `message` is one sentence for people, or None where the code says it all.
    """

    def __init__(self, code: ErrorCode, message: str | None = None) -> None:
        super().__init__(message or code.name)
        self.code = code
        self.message = message


class ConfigError(PenstockError):
    """A config is unknown, malformed or out of bounds. The message is one line that names the config."""


class CorruptMetadata(PenstockError):
    """The metadata store holds something under our keys that no Penstock of this format version writes.

    Never skipped: a topic that could not be read would look deleted, and its log would be collected as garbage.
    """

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"metadata store: {key}: {reason}")
        self.key = key


class RegistrationError(PenstockError):
    """This broker can't join: other format version, other cluster id, or its node id is in use."""
