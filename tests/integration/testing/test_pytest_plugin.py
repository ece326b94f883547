"""The pytest plugin, as test suites of other projects meet it: each test here runs pytest on a small suite of its own."""

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.deadline import until
from tests.support.requirements import need

pytest_plugins = ("pytester",)

STRICT = ("--strict-markers", "--strict-config", "-W", "error", "-p", "no:cacheprovider", "-p", "no:trio")
LEAN = (*STRICT, "-p", "no:anyio", "-p", "no:hypothesispytest")
"""Without plugins that the suites here have no use for: to load these two takes longer than to start a broker."""
LIMIT_S = 60


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """An empty folder; what this process was told by its environment does not reach the runs in it."""
    for name in [name for name in os.environ if name.startswith(("PYTEST_ADDOPTS", "PENSTOCK_"))]:
        monkeypatch.delenv(name)
    return pytester


def run(suite: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return suite.runpytest_subprocess(*LEAN, *arguments, timeout=LIMIT_S)


BLOCKING = """
    from confluent_kafka import Consumer, Producer, TopicPartition

    def test_orders_are_kept(penstock_broker, penstock_topic):
        producer = Producer({"bootstrap.servers": penstock_broker.bootstrap})
        producer.produce(penstock_topic, b"order 1")
        assert producer.flush(10) == 0
        consumer = Consumer({"bootstrap.servers": penstock_broker.bootstrap, "group.id": "by-hand"})
        consumer.assign([TopicPartition(penstock_topic, 0, 0)])
        (message,) = consumer.consume(1, 10)
        consumer.close()
        assert message.value() == b"order 1"
"""

ASYNCIO = """
    import asyncio
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

    def test_orders_are_kept(penstock_broker, penstock_topic):
        async def main():
            async with AIOKafkaProducer(bootstrap_servers=penstock_broker.bootstrap) as producer:
                await producer.send_and_wait(penstock_topic, b"order 1")
            async with AIOKafkaConsumer(bootstrap_servers=penstock_broker.bootstrap) as consumer:
                place = TopicPartition(penstock_topic, 0)
                consumer.assign([place])
                consumer.seek(place, 0)
                assert (await consumer.getone()).value == b"order 1"

        asyncio.run(main())
"""

TRIO = """
    import penstock

    async def test_topics_are_there(penstock_broker, penstock_topic):
        async with penstock.Admin(penstock_broker.bootstrap) as admin:
            assert [topic.name for topic in await admin.list_topics()] == [penstock_topic]

    async def test_a_broker_can_be_asked_for_topics_inside_an_event_loop(penstock_broker):
        penstock_broker.create_topic("made-in-the-loop", partitions=2)
        assert (penstock_broker.data_directory / "made-in-the-loop-1").is_dir()
        penstock_broker.delete_topic("made-in-the-loop")
        penstock_broker.delete_topic("made-in-the-loop")
"""

LATE = """
    import asyncio

    def test_fixtures_may_be_asked_for_inside_an_event_loop(request):
        async def main():
            return request.getfixturevalue("penstock_topic")

        assert asyncio.run(main()).startswith("test_fixtures_may")
"""


@pytest.mark.parametrize("source", [BLOCKING, ASYNCIO, LATE], ids=["blocking", "asyncio", "late"])
def test_a_suite_without_pytest_trio_gets_a_broker_and_a_topic(suite: pytest.Pytester, source: str) -> None:
    suite.makepyfile(source)
    run(suite).assert_outcomes(passed=1)


def test_a_suite_on_trio_gets_a_broker_and_a_topic(suite: pytest.Pytester) -> None:
    suite.makeini("[pytest]\ntrio_mode = true")
    suite.makepyfile(TRIO)
    result = suite.runpytest_subprocess(*STRICT[:-2], timeout=LIMIT_S)
    result.assert_outcomes(passed=2)


def test_each_test_has_a_topic_of_its_own_and_all_share_the_broker(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import pytest

        seen = []

        @pytest.mark.parametrize("number", [1, "two/3 ü", "x" * 300])
        def test_it(number, penstock_broker, penstock_topic):
            folders = {path.name for path in penstock_broker.data_directory.glob("test_it-*")}
            assert folders == {f"{penstock_topic}-0"}, "the topic of the test before is gone"
            seen.append((penstock_broker.pid, penstock_topic))

        def test_after():
            pids, topics = zip(*seen)
            assert len(set(pids)) == 1
            assert len(set(topics)) == 3
    """)
    run(suite).assert_outcomes(passed=4)


def test_the_marker_says_how_the_topic_is_made(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import pytest, trio, penstock

        pytestmark = pytest.mark.penstock_topic(partitions=2)

        async def about(bootstrap, topic):
            resource = penstock.ConfigResource(penstock.ResourceKind.TOPIC, topic)
            async with penstock.Admin(bootstrap) as admin:
                described = (await admin.describe_topics([topic]))[topic]
                configs = (await admin.describe_configs([resource]))[resource]
            wanted = ("retention.ms", "cleanup.policy", "write.caching")
            return len(described.partitions), *(configs[name].value for name in wanted)

        @pytest.mark.penstock_topic(partitions=3, configs={"retention.ms": 5000, "write.caching": False})
        def test_near(penstock_broker, penstock_topic):
            assert trio.run(about, penstock_broker.bootstrap, penstock_topic) == (3, "5000", "delete", "false")

        def test_far(penstock_broker, penstock_topic):
            assert trio.run(about, penstock_broker.bootstrap, penstock_topic)[0] == 2
    """)
    run(suite).assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("replicas=3", "unexpected keyword argument 'replicas'"),
        ("'orders'", "positional argument"),
        ("configs={'no.such.config': 1}", "no.such.config"),
    ],
)
def test_a_wrong_marker_is_an_error_that_names_it(
    suite: pytest.Pytester, arguments: str, complaint: str
) -> None:
    suite.makepyfile(f"""
        import pytest

        @pytest.mark.penstock_topic({arguments})
        def test_it(penstock_topic):
            pass
    """)
    result = run(suite)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*{complaint}*"])


def test_the_ini_option_configures_the_broker_and_the_environment_does_not(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_NUM_PARTITIONS", "7")
    monkeypatch.setenv("PENSTOCK_NO_SUCH_CONFIG", "7")
    suite.makeini("[pytest]\npenstock_config =\n    node.id = 4\n    write.caching=false")
    suite.makepyfile("""
        def test_it(penstock_broker, penstock_topic):
            text = penstock_broker.log_text()
            assert "write.caching=false" in text
            assert penstock_broker.bootstrap in text
            assert "node.id=4" in (penstock_broker.data_directory / "meta.properties").read_text()
            penstock_broker.create_topic("defaults")
            assert not (penstock_broker.data_directory / "defaults-1").exists()
    """)
    run(suite).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [("no.such.config=1", "*penstock:*no.such.config*"), ("num.partitions", "*num.partitions*KEY=VALUE*")],
)
def test_a_broker_that_does_not_start_says_why_in_its_own_words(
    suite: pytest.Pytester, line: str, complaint: str
) -> None:
    suite.makeini(f"[pytest]\npenstock_config = {line}")
    suite.makepyfile("def test_one(penstock_broker): pass\ndef test_two(penstock_topic): pass")
    result = run(suite)
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines([complaint])
    assert "Traceback" not in result.stdout.str()


def test_a_broker_that_ended_in_between_is_told_as_such(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import os, signal, penstock, pytest

        def test_kill(penstock_broker: penstock.BrokerProcess):
            os.kill(penstock_broker.pid, signal.SIGKILL)
            os.waitid(os.P_PID, penstock_broker.pid, os.WEXITED | os.WNOWAIT)

        def test_after(penstock_topic):
            pass
    """)
    result = run(suite)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*BrokerEnded: the broker ended with -9; its last words:"])


def test_a_suite_without_pytest_can_have_one_too(suite: pytest.Pytester) -> None:
    path = suite.makepyfile(
        script="""
        import pathlib, penstock

        with penstock.BrokerProcess(pathlib.Path.cwd()) as broker:
            broker.create_topic("orders")
            assert (broker.data_directory / "orders-0").is_dir()
        try:
            broker.create_topic("more")
        except penstock.PenstockError as error:
            print(error)
    """
    )
    result = suite.run(sys.executable, "-W", "error", path, timeout=LIMIT_S)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["the broker ended with -9*"])


PID_FILE = """
    from pathlib import Path

    def note(broker):
        path = Path("pids") / str(broker.pid)
        path.parent.mkdir(exist_ok=True)
        path.touch()
"""


def pids(suite: pytest.Pytester) -> list[int]:
    folder = suite.path / "pids"
    return [int(path.name) for path in folder.iterdir()] if folder.exists() else []


def has_ended(pid: int) -> bool:
    """Whether no process of that id is there; one that nobody has waited for has ended, too."""
    try:
        return " Z " in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]
    except FileNotFoundError:
        return True


def test_the_broker_ends_with_the_session_also_when_tests_fail(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        pid_file=PID_FILE,
        test_it="""
        from pid_file import note

        def test_it(penstock_broker, penstock_topic):
            note(penstock_broker)
            assert penstock_topic == ""
    """,
    )
    result = run(suite, "-p", "no:randomly", "-o", "pythonpath=.")
    result.assert_outcomes(failed=1)
    (pid,) = pids(suite)
    assert has_ended(pid)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_broker_ends_when_pytest_is_killed(suite: pytest.Pytester, number: signal.Signals) -> None:
    kill_pytest(suite, number, "")


def test_the_broker_ends_when_pytest_is_killed_while_a_forked_process_lives_on(
    suite: pytest.Pytester,
) -> None:
    forked = """
    child = os.fork()
    if child == 0:
        time.sleep(600)
        os._exit(0)
    Path("forked").write_text(str(child))
    """
    try:
        kill_pytest(suite, signal.SIGKILL, forked)
    finally:
        os.kill(int((suite.path / "forked").read_text()), signal.SIGKILL)


def kill_pytest(suite: pytest.Pytester, number: signal.Signals, before: str) -> None:
    body = before.replace("\n", "\n        ")
    suite.makepyfile(
        pid_file=PID_FILE,
        test_it=f"""
        import os, time
        from pathlib import Path
        from pid_file import note

        def test_it(penstock_broker, penstock_topic):
        {body}
            note(penstock_broker)
            time.sleep(600)
    """,
    )
    command = [sys.executable, "-m", "pytest", *LEAN, "-o", "pythonpath=.", "--basetemp", "tmp"]
    with (suite.path / "output").open("wb") as output:
        process = subprocess.Popen(command, cwd=suite.path, stdout=output, stderr=output)
    try:

        def started() -> int | None:
            assert process.poll() is None, (suite.path / "output").read_text()
            return next(iter(pids(suite)), None)

        pid = until(started, "a broker's process id", limit_s=LIMIT_S)
        assert not has_ended(pid)
        process.send_signal(number)
        process.wait(LIMIT_S)
        until(lambda: has_ended(pid), "the end of the broker")
    finally:
        process.kill()
        process.wait()


def test_each_worker_of_xdist_has_a_broker_of_its_own(suite: pytest.Pytester) -> None:
    need(importlib.util.find_spec("xdist") is not None, "pytest-xdist")
    suite.makepyfile(
        pid_file=PID_FILE,
        test_it="""
        import pytest
        from pid_file import note

        @pytest.mark.parametrize("number", range(6))
        def test_it(number, penstock_broker, penstock_topic):
            note(penstock_broker)
    """,
    )
    run(suite, "-n", "2", "-o", "pythonpath=.").assert_outcomes(passed=6)
    assert len(pids(suite)) == 2
    assert all(has_ended(pid) for pid in pids(suite))


def test_a_run_that_asks_for_no_broker_loads_nothing_of_penstock(suite: pytest.Pytester) -> None:
    suite.makepyfile("""
        import sys

        def test_it(request):
            assert request.config.pluginmanager.has_plugin("penstock")
            loaded = {name for name in sys.modules if name.partition(".")[0] in ("penstock", "trio", "click")}
            assert loaded == {"penstock", "penstock.testing", "penstock.testing.pytest_plugin"}
    """)
    run(suite).assert_outcomes(passed=1)  # the plugins that are left out would load trio


def test_the_plugin_can_be_switched_off(suite: pytest.Pytester) -> None:
    suite.makepyfile("def test_it(penstock_broker): pass\ndef test_other(): pass")
    result = run(suite, "-p", "no:penstock")
    result.assert_outcomes(errors=1, passed=1)
    result.stdout.fnmatch_lines(["*fixture 'penstock_broker' not found*"])


def test_fixtures_and_marker_are_told_to_those_who_ask(suite: pytest.Pytester) -> None:
    run(suite, "--markers").stdout.fnmatch_lines(["@pytest.mark.penstock_topic(partitions=1, configs={}):*"])
    run(suite, "--fixtures").stdout.fnmatch_lines(
        ["penstock_broker*session scope*", "penstock_topic*", "*a topic that was made for this test*"]
    )
