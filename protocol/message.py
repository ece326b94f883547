"""The value of any message that has no hand-written class: plain attributes under Kafka's names in snake case.

Knows no schema: which fields exist, and in which versions, is the codec's business. A decoded message has every field
of its kind; one made by hand has those that were given, and the codec supplies the defaults.
"""

from typing import TYPE_CHECKING, Any


class Message:
    """One message or nested structure: `Message(name="t", partitions=[Message(index=0)])`."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

        def __setattr__(self, name: str, value: Any) -> None: ...

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message):
            return NotImplemented
        return self.__dict__ == other.__dict__

    def __repr__(self) -> str:
        return f"Message({', '.join(f'{name}={value!r}' for name, value in self.__dict__.items())})"
