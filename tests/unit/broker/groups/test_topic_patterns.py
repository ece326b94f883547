"""Patterns of clients are run by RE2 and nothing else."""

import subprocess
import sys
import time
from unittest.mock import patch

import pytest

from penstock.broker.groups.topic_patterns import PATTERN_LENGTH_MAX, InvalidRegularExpression, matching


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("a.*", {"ab", "abc"}),
        ("^ab$", {"ab"}),
        ("b", set[str]()),
        ("(ab|xb)", {"ab", "xb"}),
        ("(?i)AB", {"ab"}),
        ("", set[str]()),
        ("[[:alpha:]]{2}", {"ab", "xb"}),
        (r"\p{L}c?.", {"ab", "xb"}),
    ],
)
def test_the_whole_name_must_match(pattern: str, matched: set[str]) -> None:
    assert matching(pattern, ["ab", "abc", "xb"]) == matched


@pytest.mark.parametrize("pattern", ["(", "a(?=b)", r"(a)\1", "[b-a]", "(a{1000}){1000}", "*", "a" * 9000])
def test_what_re2_does_not_run_is_refused_in_one_line(pattern: str) -> None:
    with pytest.raises(InvalidRegularExpression) as caught:
        matching(pattern, ["a"])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < PATTERN_LENGTH_MAX + 200


def test_a_pattern_that_kills_backtracking_engines_takes_no_time() -> None:
    names = ["a" * 249] * 1000
    begin = time.perf_counter()
    assert matching("(a*)*b", names) == frozenset()
    assert time.perf_counter() - begin < 2


def test_the_package_is_loaded_by_the_first_pattern_only() -> None:
    code = "import sys, penstock.broker.dispatch, penstock.broker.api.consumer_group_heartbeat\nassert 're2' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_the_package_the_refusal_says_so() -> None:
    with (
        patch.dict(sys.modules, {"re2": None}),
        pytest.raises(InvalidRegularExpression, match="google-re2"),
    ):
        matching("a", ["a"])


def test_a_pattern_that_takes_milliseconds_for_each_name_is_refused() -> None:
    with pytest.raises(InvalidRegularExpression, match="steps"):
        matching("(?:(?:a?b?){50}){20}c", [])
    tenants = "|".join(f"tenant{number}-[a-z0-9]+" for number in range(300))
    assert matching(f"(?:{tenants})", ["tenant7-a", "tenant-a"]) == {"tenant7-a"}
