"""What commands that ask a cluster have in common: where it is, the admin client for the length of a command, and how it ends.

Owns the options that several commands share. Knows no command.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import click
import trio

from penstock.cli.failure import CalledWrongly, CommandFailed, complain
from penstock.client.admin import Admin
from penstock.client.errors import BrokerError
from penstock.client.metadata import InvalidAddress
from penstock.runtime.environment import Environment

T = TypeVar("T")

CLIENT_ID = "penstock-cli"

bootstrap_option = click.option(
    "--bootstrap",
    metavar="HOST:PORT,…",
    default="localhost:9092",
    envvar="PENSTOCK_BOOTSTRAP",
    show_default=True,
    help="Brokers to ask first.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")


def with_admin(bootstrap: str, environment: Environment | None, act: Callable[[Admin], Awaitable[T]]) -> T:
    """Run `act` with an admin client, and return what it returns."""

    async def connected() -> T:
        async with Admin(bootstrap, environment, client_id=CLIENT_ID) as admin:
            return await act(admin)

    return run_asking(connected)


def real_ports(environment: Environment | None) -> Environment:
    """The environment that was handed in, or that of a real process."""
    if environment is not None:
        return environment
    from penstock.runtime.production import production_environment

    return production_environment()


def run_asking(main: Callable[[], Awaitable[T]]) -> T:
    """Run the event loop of a command. A bootstrap address that is none is a wrong call."""
    try:
        return trio.run(main)
    except InvalidAddress as error:
        raise CalledWrongly(f"--bootstrap: {error}") from error


def end(errors: Iterable[BrokerError]) -> None:
    """Tell of each error on a line of its own, then end with exit code 1 if there was one."""
    told = [str(error) for error in errors]
    for message in told[:-1]:
        complain(message)
    if told:
        raise CommandFailed(told[-1])


def raise_error(outcome: BrokerError | None) -> None:
    """Raise what came in the place of a result."""
    if outcome is not None:
        raise outcome


def counted(count: int, noun: str, plural: str = "") -> str:
    """`1 partition`, `2 partitions`; `plural` where it is not the noun with an s."""
    return f"{count} {noun}" if count == 1 else f"{count} {plural or noun + 's'}"


__all__ = [
    "CLIENT_ID",
    "bootstrap_option",
    "counted",
    "end",
    "json_option",
    "raise_error",
    "real_ports",
    "run_asking",
    "with_admin",
]
