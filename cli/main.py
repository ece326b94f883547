"""The entry point: which subcommands there are, and how an error becomes one line and an exit code.

Owns the exit codes: 0 done, 1 failed, 2 called wrongly, 130 interrupted. Knows no subcommand but its name: each is imported when it
is used, so that `penstock --version` and `penstock serve` start fast.
"""

import gc
import importlib
import sys
from collections.abc import Sequence
from typing import Any

import click

from penstock import __version__
from penstock.cli.failure import EXIT_FAILED, complain, leaves_of
from penstock.errors import PenstockError

EXIT_INTERRUPTED = 130
GC_THRESHOLD = 20_000
"""New objects until the collector looks through them. What is imported stays, and requests leave no cycles behind: to look every 700 would only cost."""

_COMMANDS = {
    "cluster": ("penstock.cli.cluster", "Show the brokers of a cluster, and move partitions between them."),
    "consume": ("penstock.cli.consume", "Print records."),
    "demo": ("penstock.cli.demo", "Play scenes that show what a broker does."),
    "dev-cluster": ("penstock.cli.dev_cluster", "Run a cluster on this machine."),
    "export": ("penstock.cli.export", "Write a topic into files."),
    "group": ("penstock.cli.group", "List, describe, delete and reset consumer groups."),
    "import": ("penstock.cli.import_files", "Send the records of files to a topic."),
    "log": ("penstock.cli.log", "Look into the files of partitions, and repair them."),
    "offsets": ("penstock.cli.offsets", "Show where partitions stand, and how far groups are behind."),
    "produce": ("penstock.cli.produce", "Send lines as records."),
    "quota": ("penstock.cli.quota", "List, set and remove the quotas of clients."),
    "redrive": ("penstock.cli.redrive", "Move dead letters back to their topics."),
    "serve": ("penstock.cli.serve", "Run a broker."),
    "topic": ("penstock.cli.topic", "Create, list, describe, alter and delete topics."),
}


class LazyGroup(click.Group):
    """Subcommands by name; the module `penstock.cli.<name>` holds the command under the name `command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, sorted."""
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a subcommand. None: there is none of that name."""
        if cmd_name not in _COMMANDS:
            return None
        command = importlib.import_module(_COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the subcommands for `--help` without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in sorted(_COMMANDS.items())])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="penstock", message="%(prog)s %(version)s")
def cli() -> None:
    """Penstock: a persistent, partitioned message queue that speaks the Kafka wire protocol."""


def run(arguments: Sequence[str], obj: Any = None) -> int:
    """Run a command line to its end and return the exit code. Errors that a person can cause are one line on stderr."""
    try:
        result = cli.main(list(arguments), prog_name="penstock", standalone_mode=False, obj=obj)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort as abort:
        if abort.__cause__ is None:  # else it was a Ctrl-C, which click has ended the line for
            click.echo(err=True)  # the cursor stands behind the question
        return EXIT_INTERRUPTED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except PenstockError as error:
        complain(str(error))
        return EXIT_FAILED
    except BaseExceptionGroup as group:
        return _report_group(group)
    return result if isinstance(result, int) else 0


def main() -> None:
    """The console script."""
    gc.set_threshold(GC_THRESHOLD)
    sys.exit(run(sys.argv[1:]))


def _report_group(group: BaseExceptionGroup[BaseException]) -> int:
    """What several tasks raised at once: one line for each thing that a person can do something about, else the traceback."""
    leaves = leaves_of(group)
    if any(isinstance(leaf, KeyboardInterrupt) for leaf in leaves):
        return EXIT_INTERRUPTED
    if not all(isinstance(leaf, PenstockError) for leaf in leaves):
        raise group
    for message in dict.fromkeys(str(leaf) for leaf in leaves):
        complain(message)
    return EXIT_FAILED


if __name__ == "__main__":
    main()
