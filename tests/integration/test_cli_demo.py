"""`penstock demo burst` against a real broker, small: all that is acked is in the database, and no backlog is above its bound."""

import signal
from pathlib import Path

from tests.support.commands import Commands
from tests.support.processes import RunningServer

import penstock
from penstock.cli.demo_play import Play
from penstock.cli.demo_scene import History, Policy, Scene, summed_up
from penstock.runtime.production import production_environment


async def test_a_sale_that_is_held_ends_with_all_that_was_acked_in_the_database_and_nobody_refused(
    tmp_path: Path,
) -> None:
    scene = Scene(policy=Policy.HOLD, database_rate=1000, times=5, sale_s=0.3, rest_s=0.1, bound=200)
    shown: list[History] = []
    async with penstock.Broker() as broker:
        play = Play(
            production_environment(),
            scene,
            broker.bootstrap,
            "sale",
            str(tmp_path / "orders.sqlite"),
            lambda: 1_000_000,
            shown.append,
        )
        await play.run()
        async with penstock.Admin(broker.bootstrap) as admin:
            names = [topic.name for topic in await admin.list_topics()]
    assert "sale" not in names, "it clears away"
    history = play.history
    assert shown[-1] is history
    assert history.lost == history.failed == history.last.refused == 0
    assert history.last.stored == history.last.taken > 0
    assert 0 < summed_up(history).backlog_max <= scene.bound


SMALL = ("--policy", "reject", "--database-rate", "800", "--times", "4", "--sale", "0.5", "--rest", "0.1")


def test_in_a_pipe_a_scene_is_lines_and_a_sum_and_its_plot_is_a_file(
    server: RunningServer, tmp_path: Path
) -> None:
    plot = tmp_path / "burst.svg"
    place = ("--bootstrap", server.bootstrap, "--bound", "200", "--plot", str(plot))
    lines = Commands(server.bootstrap).good("demo", "burst", *SMALL, *place).lines
    beginning = next(place for place, each in enumerate(lines) if each.split() == ["reject"])
    assert all("reject" in each and "backlog" in each for each in lines[: beginning - 1])
    figures = {each[:-10].strip(): each.split()[-1] for each in lines[beginning + 1 : -1]}
    assert figures["acked and lost"] == "0"
    assert int(figures["refused"].replace(",", "")) > 0
    assert 0 < int(figures["backlog at most"]) <= 200
    assert not any("\x1b" in each for each in lines)
    assert plot.read_text().startswith("<svg")


def test_ctrl_c_ends_the_demo_and_its_broker_and_leaves_nothing_behind(tmp_path: Path) -> None:
    commands = Commands("", {"TMPDIR": str(tmp_path)})
    with commands.running("demo", "burst", "--policy", "hold", "--sale", "60") as process:
        assert process.stdout is not None
        assert b"hold" in process.stdout.readline()
        assert len(list(tmp_path.iterdir())) == 1
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(30) == 130
    assert b"orders wanted" in rest, "the sum of what there is"
    assert list(tmp_path.iterdir()) == []


def test_a_plot_that_can_not_be_written_is_told_before_anything_is_played(tmp_path: Path) -> None:
    done = Commands("").run("demo", "burst", "--plot", str(tmp_path / "missing" / "burst.svg"))
    assert done.exit_code == 2
    assert "there is no folder" in done.err
    assert done.out == b""
