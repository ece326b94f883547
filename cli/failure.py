"""The two ways in which a command ends early: called wrongly (exit code 2), or failed (exit code 1).

Owns their look: one line on stderr. What is raised as another PenstockError looks the same (`penstock.cli.main`).
"""

from typing import IO, Any, cast

import click

EXIT_FAILED = 1


def complain(message: str, file: IO[Any] | None = None) -> None:
    """One line on stderr, whatever line breaks the message has."""
    click.echo(f"penstock: {' '.join(message.split())}", file=file, err=True)


class CommandFailed(click.ClickException):
    """The command did not do what it was asked; the message says why."""

    exit_code = EXIT_FAILED

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line."""
        complain(self.format_message(), file)


class CalledWrongly(CommandFailed):
    """Flags, arguments or settings make no sense."""

    exit_code = 2


def leaves_of(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """The exceptions in a group and in the groups in it."""
    leaves: list[BaseException] = []
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            leaves += leaves_of(cast(BaseExceptionGroup[BaseException], error))
        else:
            leaves.append(error)
    return leaves


__all__ = ["EXIT_FAILED", "CalledWrongly", "CommandFailed", "complain", "leaves_of"]
