"""The examples run as they stand, and what they print is what they promise."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.processes import RunningServer, running_server

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
LINES_MAX = 80
LIMIT_S = 60


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A broker as `make run` starts one."""
    with running_server(tmp_path_factory.mktemp("broker")) as running:
        yield running


def run(name: str, *arguments: str) -> list[str]:
    """What an example prints."""
    variables = {name: text for name, text in os.environ.items() if not name.startswith("PENSTOCK_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
        env=variables,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def number_in(pattern: str, lines: list[str]) -> float:
    """The number that a line of that form has."""
    (found,) = (match for line in lines if (match := re.fullmatch(pattern, line)))
    return float(found[1])


def test_a_sign_up_is_answered_long_before_mail_and_sms_are_out(broker: RunningServer) -> None:
    lines = run("async_signup.py", "--bootstrap", broker.bootstrap)
    assert {"mail  told 20 customers", "sms   told 20 customers"} < set(lines)
    median_ms = number_in(r"web   answered 20 customers, half of them within ([\d.]+) ms", lines)
    whole_s = number_in(r"all   done after ([\d.]+) s, and nobody had to wait for it", lines)
    assert whole_s >= 20 * 0.05, "each mail takes its time"
    assert median_ms < whole_s * 1000 / 20, "customers are answered faster than mails are sent"


def test_orders_are_taken_while_stock_is_down_and_none_is_lost(broker: RunningServer) -> None:
    assert run("decoupled_orders.py", "--bootstrap", broker.bootstrap) == [
        "stock  goes down, 10 orders are delivered",
        "orders 30 are taken; nobody noticed that stock is down",
        "stock  has caught up: 30 orders delivered, 0 lost, 0 twice",
    ]


def test_a_burst_is_taken_at_once_and_drained_at_its_pace(broker: RunningServer) -> None:
    lines = run("burst_purchases.py", "--bootstrap", broker.bootstrap)
    took_s = number_in(r"shop  took 600 purchases in ([\d.]+) s", lines)
    pace = number_in(r"till  worked off 600 purchases at (\d+) a second, in order", lines)
    assert lines[1:-1] == [
        "till  200 done, 400 wait",
        "till  400 done, 200 wait",
        "till  600 done, 0 wait",
    ]
    assert 0 < pace <= 200
    assert took_s < 600 / 200


def test_payments_that_fail_are_tried_again_or_put_aside(broker: RunningServer) -> None:
    assert run("failing_payments.py", "--bootstrap", broker.bootstrap) == [
        "bank  14 of 20 payments are through at try 1",
        "bank  5 of 20 payments are through at try 2",
        "desk  payment 7 is for a person to look at: this card was stolen",
    ]


def test_everybody_in_a_chat_sees_the_same_and_a_late_one_the_history(broker: RunningServer) -> None:
    assert run("group_chat.py", "--bootstrap", broker.bootstrap) == [
        "Dora joins, and reads what was said:",
        "  Ada: Who has the keys to the penstock?",
        "  Ben: Not me. Cleo had them yesterday.",
        "  Cleo: I gave them to Ada.",
        "  Ada: They are in my pocket. Sorry!",
        "4 people saw 6 messages, all in the same order",
    ]


def test_each_example_has_a_test_and_a_place_in_the_menu() -> None:
    menu = (EXAMPLES / "README.md").read_text()
    source = Path(__file__).read_text()
    assert len(SCRIPTS) == 5
    for script in SCRIPTS:
        assert f"({script.name})" in menu
        assert f'run("{script.name}"' in source


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_an_example_fits_on_a_page_and_uses_what_users_have(script: Path) -> None:
    source = script.read_text()
    assert len(source.splitlines()) < LINES_MAX
    tree = ast.parse(source)
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {"penstock", "trio"} <= imported <= {"penstock", "trio", *sys.stdlib_module_names}
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "penstock"
    }
    assert used <= {"Producer", "Consumer", "Redrive", "TopicPartition"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_an_example_asks_localhost_unless_told_otherwise(script: Path) -> None:
    assert "[default: localhost:9092]" in " ".join(" ".join(run(script.name, "--help")).split())
