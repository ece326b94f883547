import contextlib
import io
import re

import pytest

from penstock.cli.output import Column, print_table, topic_id_text

STYLE = re.compile(r"\x1b\[[0-9;]*m")
COLUMNS = [Column("NAME"), Column("COUNT", is_number=True)]


class Terminal(io.StringIO):
    """What rich takes for a terminal."""

    def isatty(self) -> bool:
        return True


def test_plain_columns_line_up_and_leave_no_cell_empty(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(COLUMNS, [("a", 1), ("longer", 1000), (None, None), ("", 0)])
    assert capsys.readouterr().out.splitlines() == [
        "NAME    COUNT",
        "a           1",
        "longer   1000",
        "-           -",
        "-           0",
    ]


@pytest.mark.parametrize("width", [20, 80, 120])
def test_a_table_on_a_terminal_loses_nothing_at_any_width(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    name = "a-name-that-is-wider-than-the-smallest-terminal"
    terminal = Terminal()
    with contextlib.redirect_stdout(terminal):
        print_table(COLUMNS, [(name, 12345)])
    lines = STYLE.sub("", terminal.getvalue()).splitlines()
    assert all(len(line) <= width for line in lines)
    assert name in "".join(line.split("  ")[0].strip() for line in lines)
    assert "12345" in terminal.getvalue()


def test_a_cell_is_never_read_as_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    terminal = Terminal()
    with contextlib.redirect_stdout(terminal):
        print_table(COLUMNS, [("[red]topic[/red]", 1)])
    assert "[red]topic[/red]" in terminal.getvalue()


def test_a_topic_id_looks_as_in_kafkas_tools() -> None:
    assert topic_id_text(bytes(16)) == "AAAAAAAAAAAAAAAAAAAAAA"
    assert topic_id_text(b"\xff" * 16) == "_" * 21 + "w"
    assert topic_id_text(None) is None


def test_a_narrow_terminal_does_without_what_can_be_spared_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    columns = [Column("NAME"), Column("LESS", spared=1), Column("LEAST", spared=2), Column("COUNT")]
    row = ("a" * 20, "b" * 20, "c" * 20, 5)
    shown: dict[int, str] = {}
    for width in (120, 60, 40):
        monkeypatch.setenv("COLUMNS", str(width))
        terminal = Terminal()
        with contextlib.redirect_stdout(terminal):
            print_table(columns, [row])
        shown[width] = STYLE.sub("", terminal.getvalue())
    assert "too narrow" not in shown[120]
    assert "too narrow for LEAST\n" in shown[60]
    assert "too narrow for LESS, LEAST\n" in shown[40]
    assert all("a" * 20 in text and "5" in text for text in shown.values())


def test_names_from_peers_can_not_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(COLUMNS, [("evil\x1b[2J\nrow", 1)])
    assert capsys.readouterr().out.splitlines()[1] == "evil?[2J?row      1"
