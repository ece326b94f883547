import importlib.metadata
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from penstock import __version__
from penstock.cli.main import run

COMMANDS = ("consume", "dev-cluster", "group", "log", "offsets", "produce", "serve", "topic")
NOT_AT_START = (
    "argparse",
    "asyncio",
    "cramjam",
    "email",
    "importlib.metadata",
    "kio",
    "rich",
    "tomllib",
    "zstandard",
    # what only other commands need
    "penstock.cli.topic",
    "penstock.client",
    "penstock.consumer",
    "penstock.offline",
    "penstock.producer",
    # what only a cluster needs
    "penstock.broker.controller.",
    "penstock.broker.replication.",
    "penstock.runtime.etcd",
    # what only bounded partitions need
    "penstock.broker.backlog.bounds",
    "penstock.broker.backlog.gate",
    "penstock.broker.backlog.partition_gate",
    "penstock.broker.backlog.ports",
    "penstock.broker.backlog.rule",
    # what only consumer groups need
    "penstock.broker.groups.classic",
    "penstock.broker.groups.consumer",
    "penstock.broker.groups.serving",
    # what only clients with quotas, and reads far from a log's end, need
    "penstock.broker.cold_reads",
    "penstock.broker.quotas",
    "penstock.protocol.throttle",
)
"""Modules and packages that a broker alone, without groups, bounds or quotas, starts without: each that comes back makes every start slower."""
Capture = pytest.CaptureFixture[str]


def modules_after(program: str) -> set[str]:
    """The modules that are loaded in a fresh interpreter once it has run a program."""
    code = f"{program}\nimport sys\nsys.stderr.write(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    return set(done.stderr.split())


def test_the_version_is_that_of_the_distribution(capsys: Capture) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"penstock {__version__}\n"
    assert importlib.metadata.version("penstock") == __version__


def test_the_version_is_told_without_loading_what_it_does_not_need() -> None:
    loaded = modules_after("from penstock.cli.main import run\nrun(['--version'])")
    assert not loaded & {"trio", "rich", "asyncio", "sqlite3", "penstock.broker", "penstock.protocol"}


# What is loaded when the broker says that it answers; it ends there.
AT_START = """
import io, os, sys
from penstock.cli.main import run

class Told(io.StringIO):
    def write(self, text):
        super().write(text)  # of bytes it is an error, which is what click looks for
        if "listens on" in text:
            os.write(1, f"{text}\\n{' '.join(sys.modules)}".encode())
            os._exit(0)

sys.stdout = Told()
run(["serve", "--listen", "127.0.0.1:0", "--data-dir", sys.argv[1]])
"""


def test_a_broker_starts_without_what_only_some_paths_need(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", AT_START, str(tmp_path / "data")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    line, _, modules = done.stdout.partition("\n")
    assert "listens on" in line, done.stderr
    loaded = modules.split()
    assert "penstock.broker.server" in loaded
    assert [name for name in loaded if name.startswith(NOT_AT_START)] == []


def test_help_lists_every_command_without_loading_it(capsys: Capture) -> None:
    assert run(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in COMMANDS)


@pytest.mark.parametrize("arguments", [["frobnicate"], ["--frobnicate"], ["serve", "--frobnicate"]])
def test_a_wrong_call_is_exit_code_2(arguments: list[str], capsys: Capture) -> None:
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "frobnicate" in err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_be_loaded_and_explains_itself(name: str, capsys: Capture) -> None:
    assert run([name, "--help"]) == 0
    assert f"penstock {name}" in capsys.readouterr().out


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    program = "import sys; from penstock.cli.main import main; sys.argv = ['penstock', '--help']; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(30) in (0, 1)
    assert process.stderr is not None
    with process.stderr as stderr:
        assert stderr.read() == ""


def test_a_log_record_is_one_line_whatever_a_peer_put_in_it() -> None:
    from penstock.cli.serve import OneLineFormatter

    record = logging.LogRecord(
        "n", logging.INFO, "f", 1, "client %s", ("a\nERROR forged\x1b[2J\u2028b",), None
    )
    assert OneLineFormatter("%(message)s").format(record) == "client a?ERROR forged?[2J?b"


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--set", "no.such=1"], "--set: unknown config 'no.such'"),
        (["--set", "log.retention.mss=1"], "did you mean log.retention.ms?"),
        (["--set", "novalue"], "--set: 'novalue' is not of the form KEY=VALUE"),
        (["--set", "log.dirs=a", "--data-dir", "b"], "log.dirs is set twice"),
        (["--node-id", "many"], "--node-id: node.id: 'many' is no integer"),
        (["--listen", "nowhere"], "is not of the form NAME://host:port"),
        (["--listen", "0.0.0.0:1"], "advertised.listeners must name its host"),
        (["--config", "/no/such/file.toml"], "/no/such/file.toml: no such file"),
    ],
)
def test_settings_that_make_no_sense_are_one_line_and_exit_code_2(
    flags: list[str], complaint: str, capsys: Capture
) -> None:
    assert run(["serve", *flags]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert complaint in err
    assert err.count("\n") == 1
