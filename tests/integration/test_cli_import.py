"""What `penstock export` wrote, `penstock import` brings back: equal, record by record."""

import hashlib
import json
from pathlib import Path

import pytest
from tests.support.commands import Commands
from tests.support.processes import RunningServer
from tests.support.topics import fresh_name

PARTITIONS = 3
Lines = list[dict[str, object]]


@pytest.fixture(scope="module")
def commands(server: RunningServer) -> Commands:
    return Commands(server.bootstrap)


def new_topic(commands: Commands) -> str:
    name = fresh_name("import")
    commands.good("topic", "create", name, "--partitions", str(PARTITIONS), "--config", "retention.ms=-1")
    return name


@pytest.fixture(scope="module")
def topic(commands: Commands) -> str:
    """Records of every odd kind: nulls, nothing, bytes that are no text, line breaks, quotes, headers twice, header names that are none."""
    name = new_topic(commands)
    odd: Lines = [
        {"value": None, "key": "deleted"},
        {"value": "", "key": ""},
        {"value_base64": "/wD+", "key_base64": "gIE="},
        {"value": 'a "quoted", text\r\nof\ntwo lines', "key": "ü😀"},
        {"value": "x", "headers": [{"name": "a", "value": "1"}, {"name": "a", "value": None}]},
        {"value": "x", "headers": [{"name": "", "value_base64": "/w=="}, {"name": "b", "value": ""}]},
        {"value": "y" * 5000},
    ]
    records = [
        {
            **odd[number % len(odd)],
            "timestamp": 1438128000000 + 977 * number,
            "partition": number % PARTITIONS,
        }
        for number in range(300)
    ]
    commands.good("produce", name, "--json", stdin="\n".join(map(json.dumps, records)).encode())
    return name


@pytest.fixture(scope="module")
def original(commands: Commands, topic: str) -> dict[int, Lines]:
    return content(commands, topic)


def content(commands: Commands, topic: str) -> dict[int, Lines]:
    """All records but for their topic, partition by partition in order."""
    found: dict[int, Lines] = {index: [] for index in range(PARTITIONS)}
    for line in commands.good("consume", topic, "--exit", "--json").lines:
        fields = json.loads(line)
        del fields["topic"]
        found[fields["partition"]].append(fields)
    return found


@pytest.mark.parametrize("format_name", ["parquet", "jsonl"])
def test_an_export_comes_back_equal(
    commands: Commands, topic: str, original: dict[int, Lines], tmp_path: Path, format_name: str
) -> None:
    commands.good("export", topic, "--format", format_name, "--partition-by", "hour", "--out", str(tmp_path))
    back = new_topic(commands)
    done = commands.good("import", str(tmp_path), "--topic", back, "--keep-partitions")
    assert "300 records acked" in done.err
    assert content(commands, back) == original


def test_one_file_goes_by_key(commands: Commands, tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    path.write_bytes(
        b'{"value": "1", "key": "k", "partition": 0}\n{"value": "2", "key": "k", "partition": 1}'
    )
    back = new_topic(commands)
    commands.good("import", str(path), "--topic", back)
    (lane,) = [lane for lane in content(commands, back).values() if lane]
    assert [(each["key"], each["value"]) for each in lane] == [("k", "1"), ("k", "2")]


def test_a_changed_file_is_told_before_anything_of_it_is_sent(
    commands: Commands, topic: str, tmp_path: Path
) -> None:
    commands.good("export", topic, "--format", "csv", "--out", str(tmp_path))
    (path,) = tmp_path.glob("part-*.csv")
    data = path.read_bytes().replace(b"yy", b"zz", 1)
    path.write_bytes(data)
    back = new_topic(commands)
    done = commands.run("import", str(tmp_path), "--topic", back)
    assert done.exit_code == 1
    assert "its checksum is not the one in the manifest" in done.err
    assert not any(content(commands, back).values())
    manifest = json.loads((tmp_path / "_manifest.json").read_bytes())
    assert manifest["files"][0]["sha256"] != hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"x,y\r\n1,2\r\n", "value"),
        ("a.jsonl", b"{}\n", "no value"),
        ("a.parquet", b"PAR1 no", "a.parquet"),
        ("a.txt", b"", "no such file or folder"),
    ],
)
def test_a_file_that_is_none_is_one_line(
    commands: Commands, topic: str, tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    path = tmp_path / name
    if data:
        path.write_bytes(data)
    done = commands.run("import", str(path), "--topic", topic)
    assert done.exit_code == 1
    assert message in done.err.splitlines()[-1], done
    assert "Traceback" not in done.err
