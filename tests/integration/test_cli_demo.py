"""`penstock demo burst` against a real broker, small: all that is acked is in the database, and no backlog is above its bound."""

import signal
from pathlib import Path

from tests.support.commands import Commands
from tests.support.processes import RunningServer

import penstock
from penstock.cli.demo_play import Play
from penstock.cli.demo_scene import History, Policy, Scene, summed_up
from penstock.runtime.production import production_environment


async def played(tmp_path: Path, bootstrap: str, policy: Policy) -> History:
    scene = Scene(policy=policy, database_rate=400, times=10, sale_s=0.4, rest_s=0.1, bound=200)
    shown: list[History] = []
    play = Play(
        production_environment(),
        scene,
        bootstrap,
        f"sale-{policy.value}",
        str(tmp_path / f"{policy.value}.sqlite"),
        lambda: 1_000_000,
        shown.append,
    )
    await play.run()
    assert shown[-1] is play.history
    return play.history


async def test_a_sale_ends_with_all_that_was_acked_in_the_database_and_the_backlog_under_its_bound(
    tmp_path: Path,
) -> None:
    async with penstock.Broker() as broker:
        found = {
            policy: await played(tmp_path, broker.bootstrap, policy)
            for policy in (Policy.REJECT, Policy.HOLD)
        }
        async with penstock.Admin(broker.bootstrap) as admin:
            names = [topic.name for topic in await admin.list_topics()]
    assert [name for name in names if name.startswith("sale")] == [], "it clears away"
    for history in found.values():
        summary = summed_up(history)
        assert history.lost == 0
        assert history.failed == 0
        assert history.last.stored == history.last.taken > 0
        assert summary.backlog_max <= 200
    assert found[Policy.REJECT].last.refused > 0
    assert found[Policy.HOLD].last.refused == 0


SMALL = ("--policy", "reject", "--database-rate", "400", "--times", "5", "--sale", "0.5", "--rest", "0.1")


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
    assert int(figures["backlog at most"]) > 0
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
