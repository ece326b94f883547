"""A day of real lines, read as a set by `penstock consume`: all of it, nothing else, in order."""

from itertools import accumulate

import pytest
from tests.support.clients import kcat
from tests.support.commands import Commands
from tests.support.processes import RunningServer
from tests.support.topics import fresh_name
from tests.support.zookeeper_days import lines_of, produce_days

DAY = "2015-07-29"
DAY_MS = (1438128000000, 1438214400000)


@pytest.fixture(scope="module")
def commands(server: RunningServer) -> Commands:
    return Commands(server.bootstrap)


def written(commands: Commands, partitions: int, compression: str) -> str:
    name = fresh_name("zookeeper")
    commands.good("topic", "create", name, "--partitions", str(partitions), "--config", "retention.ms=-1")
    produce_days(commands.bootstrap, name, partitions=partitions, compression=compression)
    return name


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_day_of_compressed_lines_is_exactly_that_day_in_order(commands: Commands, compression: str) -> None:
    topic = written(commands, 1, compression)
    today = [b"of today %d" % number for number in range(1000)]
    kcat.produce(commands.bootstrap, topic, today, compression)  # which gives them the time of now
    produce_days(commands.bootstrap, topic, partitions=1, compression=compression)
    expected = b"".join(line + b"\n" for line in 2 * lines_of(DAY))
    assert commands.good("consume", topic, "--day", DAY).out == expected
    assert commands.good("consume", topic, "--from", DAY, "--to", "2015-07-30").out == expected
    assert commands.good("consume", topic, "--from", "-1h", "--exit").out.split(b"\n")[:-1] == today


def test_a_day_over_partitions_is_merged_by_time(commands: Commands) -> None:
    topic = written(commands, 3, "lz4")
    done = commands.good("consume", topic, "--day", DAY, "--by-time", "--format", r"%T %p %o\n")
    found = [(int(t), int(p), int(o)) for t, p, o in (line.split() for line in done.lines)]
    lanes = [
        [place for place in sorted(found, key=lambda place: place[2]) if place[1] == p] for p in range(3)
    ]
    keyed = [
        (latest, p, place)
        for p, lane in enumerate(lanes)
        for latest, place in zip(accumulate((t for t, _, _ in lane), max), lane, strict=True)
    ]
    # The lines of the file are not sorted: one that is older than one before it in its partition counts as late as that.
    assert found != sorted(found)
    assert found == [place for _, _, place in sorted(keyed, key=lambda entry: entry[:2])]
    plain = commands.good("consume", topic, "--day", DAY).out
    assert sorted(plain.split(b"\n")[:-1]) == sorted(lines_of(DAY))


def test_kcat_sees_the_same_day_where_it_looks_at_every_record(commands: Commands) -> None:
    topic = written(commands, 1, "snappy")
    lines = kcat.run(
        *("-b", commands.bootstrap, "-C", "-q", "-e", "-t", topic, "-p", "0", "-f", r"%T %s\n")
    ).split(b"\n")[:-1]
    start_ms, end_ms = DAY_MS
    split = [line.split(b" ", 1) for line in lines]
    by_kcat = [line for time_ms, line in split if start_ms <= int(time_ms) < end_ms]
    assert len(by_kcat) == len(lines_of(DAY))
    assert commands.good("consume", topic, "--day", DAY).out.split(b"\n")[:-1] == by_kcat
