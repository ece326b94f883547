"""Deleting things by name: the question before it, and what is told after it.

Owns the words and the exit code, for topics and groups alike. Knows neither.
"""

import sys
from collections.abc import Mapping, Sequence

import click

from penstock.cli.asking import end
from penstock.cli.failure import CalledWrongly, CommandFailed
from penstock.cli.output import print_json
from penstock.client.errors import BrokerError


def ask_before_deletion(kind: str, names: Sequence[str], losing: str, *, yes: bool) -> None:
    """Let a person confirm on a terminal. Raises CalledWrongly where there is nobody to ask, CommandFailed where the answer is no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise CalledWrongly("delete needs --yes where there is no terminal to ask on")
    what = kind if len(names) == 1 else f"{kind}s"
    if not click.confirm(f"Delete {what} {', '.join(names)} with {losing}?", err=True):
        raise CommandFailed("nothing was deleted")


def tell_of_deletion(
    kind: str,
    outcomes: Mapping[str, BrokerError | None],
    *,
    as_json: bool,
    forgiven: type[BrokerError] | None,
) -> None:
    """A line for each that is gone; the others are errors, but for those of the class `forgiven`."""
    for name, outcome in outcomes.items():
        if outcome is not None:
            continue
        if as_json:
            print_json({kind: name, "deleted": True})
        else:
            click.echo(f"deleted {name}")
    errors = [outcome for outcome in outcomes.values() if outcome is not None]
    end(error for error in errors if forgiven is None or not isinstance(error, forgiven))


__all__ = ["ask_before_deletion", "tell_of_deletion"]
