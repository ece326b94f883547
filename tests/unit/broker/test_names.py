"""Topic names become parts of paths and keys, so nothing but the allowed form passes."""

import pytest

from penstock.broker.names import collision_form, topic_name_fault


@pytest.mark.parametrize("name", ["a", "A-b_c.9", "...", "x" * 249, "__consumer_offsets"])
def test_allowed(name: str) -> None:
    assert topic_name_fault(name) is None


@pytest.mark.parametrize(
    "name", ["", ".", "..", "x" * 250, "../x", "a/b", "a\\b", "a b", "a\n", "\0", "ü", "a:b"]
)
def test_refused_with_a_reason(name: str) -> None:
    assert topic_name_fault(name)


def test_dot_and_underscore_collide() -> None:
    assert collision_form("a.b_c") == collision_form("a_b.c")
    assert collision_form("a-b") != collision_form("a_b")
