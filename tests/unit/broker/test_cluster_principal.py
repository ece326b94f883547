"""A forged follower fetch never moves the high watermark (PROPERTIES, network bounds)."""

from typing import Any

import pytest
from tests.support.followed_broker import TOPIC_ID, VERSION, FollowedBroker, followed_broker
from tests.support.logs import batch

from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message


class Nobody:
    """Lets no connection act as a broker, and remembers who asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def may_act_as_broker(self, principal: str, listener: str) -> bool:
        self.asked.append((principal, listener))
        return False


async def appended(bench: FollowedBroker) -> None:
    """One record on the leader, which nobody else has."""
    (result,) = await bench.broker.produced("orders", bytes(batch()), acks=1)
    assert (result.error_code, bench.partition.high_watermark) == (0, 0)


async def test_high_watermark_follows_fetches_that_are_believed() -> None:
    async with followed_broker() as bench:
        await appended(bench)
        await bench.fetch_as(2, 1)
        assert bench.partition.high_watermark == 0, "the third has nothing yet"
        answer = await bench.fetch_as(3, 1)
        assert bench.partition.high_watermark == 1
        assert answer.responses[0].partitions[0].high_watermark == 1


@pytest.mark.parametrize(
    ("forged", "code"),
    [
        ({"node_id": 9, "epoch": 5}, ErrorCode.BROKER_ID_NOT_REGISTERED),
        ({"node_id": 3, "epoch": 0}, ErrorCode.STALE_BROKER_EPOCH),
        ({"node_id": 3, "epoch": 2**62}, ErrorCode.STALE_BROKER_EPOCH),
        ({"node_id": 1, "epoch": 1}, ErrorCode.BROKER_ID_NOT_REGISTERED),
    ],
    ids=["unknown id", "no epoch", "made up epoch", "the leader itself"],
)
async def test_who_is_no_registered_broker_is_refused_whole(forged: dict[str, Any], code: ErrorCode) -> None:
    async with followed_broker() as bench:
        await appended(bench)
        await bench.fetch_as(2, 1)
        answer = await bench.fetch_as(offset=1, **forged)
        assert (answer.error_code, list(answer.responses)) == (code, [])
        assert bench.partition.high_watermark == 0


async def test_fetch_of_an_earlier_start_of_a_broker_does_not_count_for_the_present_one() -> None:
    async with followed_broker() as bench:
        old = bench.epochs[3]
        await bench.register(3)
        await appended(bench)
        await bench.fetch_as(2, 1)
        answer = await bench.fetch_as(3, 1, epoch=old)
        assert answer.error_code == ErrorCode.STALE_BROKER_EPOCH
        assert bench.partition.high_watermark == 0
        await bench.fetch_as(3, 1)
        assert bench.partition.high_watermark == 1


async def test_broker_without_a_replica_is_no_follower() -> None:
    async with followed_broker() as bench:
        await appended(bench)
        await bench.fetch_as(2, 1)
        await bench.register(7)
        answer = await bench.fetch_as(7, 1)
        assert answer.responses[0].partitions[0].error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
        assert bench.partition.high_watermark == 0


@pytest.mark.parametrize("version", [5, 11, 14])
async def test_old_versions_which_name_no_incarnation_are_not_believed(version: int) -> None:
    async with followed_broker() as bench:
        await appended(bench)
        await bench.fetch_as(2, 1)
        wanted = TOPIC_ID if version >= 13 else "orders"
        answer = await bench.broker.answer(
            bench.broker.fetch(
                (wanted, 0, 1), version=version, replica_id=3, current_leader_epoch=bench.leader_epoch
            )
        )
        codes = [part.error_code for topic in answer.responses for part in topic.partitions]
        assert (codes if version < 7 else [answer.error_code]) == [ErrorCode.STALE_BROKER_EPOCH]
        assert bench.partition.high_watermark == 0


async def test_refused_principal_is_no_broker_whatever_it_names() -> None:
    async with followed_broker() as bench:
        principals = bench.broker.broker.cluster_principals = Nobody()
        await appended(bench)
        for node_id in (2, 3):
            answer = await bench.fetch_as(node_id, 1)
            assert answer.error_code == ErrorCode.CLUSTER_AUTHORIZATION_FAILED
        assert principals.asked == [("User:ANONYMOUS", "")] * 2
        assert bench.partition.high_watermark == 0
        consumer = bench.broker.fetch((TOPIC_ID, 0, 0), version=VERSION)
        assert (await bench.broker.answer(consumer)).error_code == 0, "consumers are not asked"


@pytest.mark.parametrize(
    ("claim", "code"),
    [
        ({"offset": 2}, ErrorCode.OFFSET_OUT_OF_RANGE),
        ({"offset": 1, "leader_epoch": 0}, ErrorCode.FENCED_LEADER_EPOCH),
        ({"offset": 1, "leader_epoch": 9}, ErrorCode.UNKNOWN_LEADER_EPOCH),
        ({"offset": 1, "last_fetched_epoch": 9}, ErrorCode.OFFSET_OUT_OF_RANGE),
        ({"offset": 1, "last_fetched_epoch": 0}, ErrorCode.NONE),
    ],
    ids=["beyond the end", "an older epoch", "a later epoch", "an unknown history", "another history"],
)
async def test_claim_that_does_not_fit_the_leaders_log_does_not_count(
    claim: dict[str, Any], code: ErrorCode
) -> None:
    async with followed_broker() as bench:
        await appended(bench)
        await bench.fetch_as(2, 1)
        answer = await bench.fetch_as(3, **claim)
        (part,) = answer.responses[0].partitions
        assert part.error_code == code
        assert code or (part.diverging_epoch.epoch, part.diverging_epoch.end_offset) == (0, 0)
        assert bench.partition.high_watermark == 0


async def test_fetch_that_names_no_leader_epoch_is_served_but_does_not_count() -> None:
    async with followed_broker() as bench:
        await appended(bench)
        await bench.fetch_as(2, 1)
        answer = await bench.broker.answer(
            bench.broker.fetch(
                (TOPIC_ID, 0, 1),
                version=VERSION,
                replica_state=Message(replica_id=3, replica_epoch=bench.epochs[3]),
            )
        )
        assert answer.responses[0].partitions[0].error_code == 0
        assert bench.partition.high_watermark == 0


async def test_session_of_a_follower_is_not_a_consumers_to_use() -> None:
    async with followed_broker() as bench:
        await appended(bench)
        await bench.fetch_as(2, 1)
        begun = await bench.fetch_as(3, 0, session=(0, 0))
        assert begun.session_id
        answer = await bench.broker.answer(
            bench.broker.fetch(
                (TOPIC_ID, 0, 1),
                version=VERSION,
                session=(begun.session_id, 1),
                current_leader_epoch=bench.leader_epoch,
            )
        )
        assert answer.error_code == ErrorCode.FETCH_SESSION_ID_NOT_FOUND
        await bench.fetch_as(3, 0, session=(begun.session_id, 1))
        assert bench.partition.high_watermark == 0
