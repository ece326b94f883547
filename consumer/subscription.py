"""What a consumer is subscribed to: topics by name, or all topics whose name matches a pattern.

Owns nothing but the value and what it matches. Classic groups match patterns here, with Python's own `re` on the user's own pattern; KIP-848
groups send them to the broker, which has RE2.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from penstock.client.metadata import TopicMetadata


@dataclass(frozen=True, slots=True)
class Subscription:
    """Either `topics`, or a `pattern` that must match a topic's whole name."""

    topics: frozenset[str] = frozenset()
    pattern: str | None = None

    def __post_init__(self) -> None:
        if self.pattern is not None and self.topics:
            raise ValueError("a subscription has topics or a pattern, not both")

    @property
    def is_empty(self) -> bool:
        """Whether it asks for nothing."""
        return self.pattern is None and not self.topics

    def matching(self, topics: Iterable[TopicMetadata]) -> frozenset[str]:
        """The names among `topics` that it asks for. A pattern never matches an internal topic (Kafka's `exclude.internal.topics`)."""
        if self.pattern is None:
            return self.topics & {topic.name for topic in topics}
        matches = re.compile(self.pattern).fullmatch
        return frozenset(topic.name for topic in topics if not topic.is_internal and matches(topic.name))


__all__ = ["Subscription"]
