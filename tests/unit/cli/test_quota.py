"""`penstock quota` against a whole broker in memory: what it sets, lists and removes, and how it fails."""

import json

import pytest
from tests.support.memory_server import memory_server
from tests.support.scripted_broker import (
    ScriptedBroker,
    ScriptedNetwork,
    metadata_answer,
    scripted_environment,
)
from trio.testing import MockClock

from penstock.cli.byte_rates import byte_rate
from penstock.cli.main import run
from penstock.client.admin import Admin
from penstock.client.admin_quotas import QuotaEntity
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("1", 1),
        ("1.5MB", 1_500_000),
        ("64KiB", 65_536),
        ("2gb/s", 2 * 10**9),
        ("0", None),
        ("x", None),
        ("-1", None),
    ],
)
def test_rate_is_read_as_another(text: str, rate: int | None) -> None:
    assert byte_rate(text) == rate


async def test_admin_sets_something_else_or_hides_an_error(autojump_clock: MockClock) -> None:
    async with memory_server() as server, Admin(server.bootstrap, server.client("admin")) as admin:
        x, alice = QuotaEntity(client_id="x"), QuotaEntity("alice", "")
        outcomes = await admin.alter_quotas(
            {
                x: {"producer_byte_rate": 1e6},
                alice: {"request_percentage": 12.5},
                QuotaEntity(""): {"no": 1.0},
            }
        )
        assert outcomes[x] is outcomes[alice] is None
        assert "the default user: There is no quota 'no'" in str(outcomes[QuotaEntity("")])
        assert await admin.describe_quotas() == {
            x: {"producer_byte_rate": 1e6},
            alice: {"request_percentage": 12.5},
        }
        await admin.alter_quotas({x: {"producer_byte_rate": None}}, validate_only=True)
        assert x in await admin.describe_quotas()
        await admin.alter_quotas({x: {"producer_byte_rate": None}})
        assert list(await admin.describe_quotas()) == [alice]


class Cluster:
    """A broker that keeps quotas, and refuses those that are not Kafka's."""

    def __init__(self) -> None:
        self.quotas: dict[tuple[tuple[str, str | None], ...], dict[str, float]] = {}
        self.broker = ScriptedBroker(
            {
                ApiKey.METADATA: lambda version, request: metadata_answer({1: ("localhost", 9092)}, {}),
                ApiKey.DESCRIBE_CLIENT_QUOTAS: self.describe,
                ApiKey.ALTER_CLIENT_QUOTAS: self.alter,
            }
        )

    def run(self, *arguments: str) -> int:
        network = ScriptedNetwork({("localhost", 9092): self.broker})
        return run(["quota", *arguments], obj=scripted_environment(network))

    def describe(self, version: int, request: Message) -> Message:
        assert (request.components, request.strict) == ([], False)
        entries = [
            Message(
                entity=[Message(entity_type=kind, entity_name=name) for kind, name in parts],
                values=[Message(key=key, value=value) for key, value in quotas.items()],
            )
            for parts, quotas in self.quotas.items()
        ]
        return Message(error_code=0, error_message=None, entries=entries)

    def alter(self, version: int, request: Message) -> Message:
        (entry,) = request.entries
        code = 0
        parts = tuple((part.entity_type, part.entity_name) for part in entry.entity)
        for operation in entry.ops:
            if not operation.key.endswith(("_rate", "_percentage")):
                code = int(ErrorCode.INVALID_REQUEST)
            elif not request.validate_only and operation.remove:
                del self.quotas[parts][operation.key]
            elif not request.validate_only:
                self.quotas.setdefault(parts, {})[operation.key] = operation.value
        message = "no such quota" if code else None
        return Message(entries=[Message(error_code=code, error_message=message, entity=entry.entity)])


X = (("client-id", "x"),)
ALICE_EACH = (("user", "alice"), ("client-id", None))


def test_what_is_set_is_not_what_was_said(capsys: pytest.CaptureFixture[str]) -> None:
    cluster = Cluster()
    assert cluster.run("set", "--client-id", "x", "producer_byte_rate=1.5MB", "request_percentage=12.5") == 0
    assert cluster.quotas == {X: {"producer_byte_rate": 1_500_000, "request_percentage": 12.5}}
    assert capsys.readouterr().out == (
        "client-id x: producer_byte_rate=1500000\nclient-id x: request_percentage=12.5\n"
    )
    assert cluster.run("set", "--user", "alice", "--client-id-default", "consumer_byte_rate=7", "--json") == 0
    assert cluster.quotas[ALICE_EACH] == {"consumer_byte_rate": 7}
    assert json.loads(capsys.readouterr().out) == {
        "user": "alice",
        "client_id": {"default": True},
        "quota": "consumer_byte_rate",
        "value": 7.0,
        "dry_run": False,
    }
    assert cluster.run("list") == 0
    listed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert listed[1:] == [
        ["-", "x", "producer_byte_rate", "1500000"],
        ["-", "x", "request_percentage", "12.5"],
        ["alice", "<default>", "consumer_byte_rate", "7"],
    ]
    assert cluster.run("list", "--json") == 0
    assert [json.loads(line)["value"] for line in capsys.readouterr().out.splitlines()] == [1500000, 12.5, 7]


def test_more_is_removed_than_was_named(capsys: pytest.CaptureFixture[str]) -> None:
    cluster = Cluster()
    cluster.quotas = {X: {"producer_byte_rate": 1.0, "consumer_byte_rate": 2.0}, ALICE_EACH: {"a_rate": 3.0}}
    assert cluster.run("remove", "--client-id", "x", "consumer_byte_rate", "--dry-run") == 0
    assert cluster.quotas[X] == {"producer_byte_rate": 1.0, "consumer_byte_rate": 2.0}
    assert cluster.run("remove", "--client-id", "x", "consumer_byte_rate") == 0
    assert cluster.quotas[X] == {"producer_byte_rate": 1.0}
    assert cluster.run("remove", "--client-id", "x") == 0
    assert (cluster.quotas[X], cluster.quotas[ALICE_EACH]) == ({}, {"a_rate": 3.0})
    assert "client-id x: producer_byte_rate is removed" in capsys.readouterr().out
    assert cluster.run("remove", "--user-default", "a_rate") == 2
    assert "the default user has no quota a_rate" in capsys.readouterr().err


def test_nothing_set_is_silence(capsys: pytest.CaptureFixture[str]) -> None:
    assert Cluster().run("list") == 0
    assert capsys.readouterr() == ("", "no quotas\n")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["set", "producer_byte_rate=1"], 2, "say whose quota"),
        (["set", "--user", "a", "--user-default", "producer_byte_rate=1"], 2, "exclude each other"),
        (["set", "--client-id", "", "producer_byte_rate=1"], 2, "an empty name"),
        (["set", "--user", "a", "producer_byte_rate"], 2, "NAME=VALUE"),
        (["set", "--user", "a", "producer_byte_rate=fast"], 2, "no number"),
        (["set", "--user", "a", "x_rate=1", "x_rate=2"], 2, "set twice"),
        (["set", "--user", "a", "speed=1"], 1, "user a: no such quota"),
    ],
)
def test_mistake_is_a_traceback(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Cluster().run(*arguments) == code
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
