"""Which topic names are allowed.

Owns: the one check of a topic name, for requests and for keys from the metadata store alike. A name that passes is safe as
a part of a path and of a key. Source: Kafka's `Topic.validate`, `Topic.unifyCollisionChars`.
"""

import re

TOPIC_NAME_LENGTH_MAX = 249

_TOPIC_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")

INTERNAL_TOPICS = frozenset({"__consumer_offsets", "__transaction_state"})


def topic_name_fault(name: str) -> str | None:
    """Why `name` is no topic name, as the end of a sentence, or None if it is one."""
    if _TOPIC_NAME.fullmatch(name) and name not in (".", ".."):
        return None
    if not name:
        return "it is empty"
    if name in (".", ".."):
        return "it is '.' or '..'"
    if len(name) > TOPIC_NAME_LENGTH_MAX:
        return f"it has more than {TOPIC_NAME_LENGTH_MAX} characters"
    return "only ASCII letters, digits, '.', '_' and '-' are allowed"


def collision_form(name: str) -> str:
    """Two topics whose forms are equal would share metric names in Kafka's tools, so only one of them may exist."""
    return name.replace(".", "_")
