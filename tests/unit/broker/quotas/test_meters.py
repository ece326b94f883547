"""Who shares a bucket, what a change of quotas does to debts, and that nothing is remembered for ever."""

import logging

import pytest

from penstock.broker.quotas import meters as module
from penstock.broker.quotas.entity import DEFAULT, PRODUCER_BYTE_RATE, REQUEST_PERCENTAGE, QuotaEntity, Quotas
from penstock.broker.quotas.meters import UNMEASURED, Meter, Meters

EACH_CLIENT: Quotas = {QuotaEntity(None, DEFAULT): {PRODUCER_BYTE_RATE: 100.0}}


def produce_meter(meters: Meters, user: str = "u", client_id: bytes = b"c", now: float = 0.0) -> Meter:
    found = meters.client(user, client_id, now).produce
    assert found is not None
    return found


def test_clients_of_a_user_have_a_bucket_each_though_the_quota_is_the_users() -> None:
    meters = Meters({QuotaEntity("u"): {PRODUCER_BYTE_RATE: 100.0}})
    assert produce_meter(meters, "u", b"a") is produce_meter(meters, "u", b"b")
    assert meters.client("v", b"a", 0.0) is UNMEASURED


def test_clients_share_the_default_that_is_for_each() -> None:
    meters = Meters(EACH_CLIENT)
    assert produce_meter(meters, "u", b"a") is not produce_meter(meters, "u", b"b")
    assert produce_meter(meters, "u", b"a") is produce_meter(meters, "v", b"a")


def test_raised_quota_forgives_or_keeps_waiting_by_the_old_one() -> None:
    meters = Meters(EACH_CLIENT)
    assert meters.charge(produce_meter(meters), 500, 0.0) == 4
    meters.quotas_changed({QuotaEntity(None, "c"): {PRODUCER_BYTE_RATE: 200.0}}, 0.0)
    assert produce_meter(meters).bucket.wait_s(0.0) == 1.5
    meters.quotas_changed({QuotaEntity(None, "other"): {PRODUCER_BYTE_RATE: 1.0}}, 0.0)
    assert meters.client("u", b"c", 0.0) is UNMEASURED


def test_request_time_is_counted_in_whole_cores() -> None:
    meters = Meters({QuotaEntity("u"): {REQUEST_PERCENTAGE: 10.0}})
    request = meters.client("u", b"c", 0.0).request
    assert request is not None
    assert meters.charge(request, 0.15, 0.0) == pytest.approx(0.5)  # a tenth of a second was there
    assert meters.charge(request, 9, 0.0) == module.REQUEST_WAIT_MAX_S


def test_idle_clients_are_remembered() -> None:
    meters = Meters(EACH_CLIENT)
    for n in range(100):
        meters.charge(produce_meter(meters, client_id=b"%d" % n), 100, 0.0)
    kept = produce_meter(meters, client_id=b"7")
    meters.charge(kept, 100, 0.0)
    meters.forget_idle(1.0)
    assert len(meters) == 2
    assert produce_meter(meters, client_id=b"7", now=1.0) is kept
    meters.forget_idle(2.0)
    assert len(meters) == 0


def test_client_pays_into_a_bucket_that_its_sharers_no_longer_see() -> None:
    meters = Meters({QuotaEntity("u"): {PRODUCER_BYTE_RATE: 100.0}})
    produce_meter(meters, client_id=b"a")
    meters.forget_idle(1.0)
    assert produce_meter(meters, client_id=b"a") is produce_meter(meters, client_id=b"b")


def test_a_flood_of_client_ids_is_remembered() -> None:
    meters = Meters(EACH_CLIENT, remembered_max=50)
    for n in range(500):
        meters.charge(produce_meter(meters, client_id=b"%d" % n), 1000, 0.0)
    assert len(meters) <= 2 * 50
    long = b"x" * 30_000
    assert produce_meter(meters, client_id=long) is produce_meter(meters, client_id=long + b"y")
    assert produce_meter(meters, client_id=b"\xff\xfe").limit.sharers.client_id == "��"


def test_log_has_a_line_for_every_request_of_an_offender(caplog: pytest.LogCaptureFixture) -> None:
    meters = Meters(EACH_CLIENT)
    with caplog.at_level(logging.INFO):
        for turn in range(100):
            meters.charge(produce_meter(meters, client_id=b"a"), 1000, turn * 10.0)
            meters.charge(produce_meter(meters, client_id=b"b"), 1000, turn * 10.0 + 0.5)
    told = [record.getMessage() for record in caplog.records]
    assert len([line for line in told if line.startswith("client-id 'a'")]) == 2  # of 990 s
    assert (
        told[0]
        == "client-id 'a': over producer_byte_rate=100 (the quota of the default client-id): throttled, for 9000 ms this time"
    )
