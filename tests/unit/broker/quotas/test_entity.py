"""Which quota holds for a client: Kafka's order of precedence, and who shares a bucket."""

import itertools

import pytest

from penstock.broker.quotas.entity import DEFAULT, PRODUCER_BYTE_RATE, QuotaEntity, limit_of

IN_ORDER = [
    (QuotaEntity("u", "c"), QuotaEntity("u", "c")),
    (QuotaEntity("u", DEFAULT), QuotaEntity("u", "c")),
    (QuotaEntity("u"), QuotaEntity("u")),
    (QuotaEntity(DEFAULT, "c"), QuotaEntity("u", "c")),
    (QuotaEntity(DEFAULT, DEFAULT), QuotaEntity("u", "c")),
    (QuotaEntity(DEFAULT), QuotaEntity("u")),
    (QuotaEntity(None, "c"), QuotaEntity(None, "c")),
    (QuotaEntity(None, DEFAULT), QuotaEntity(None, "c")),
]
"""Kafka's `DefaultQuotaCallback`: an entity before all below it, and who shares its bucket with the client."""


@pytest.mark.parametrize("first", range(len(IN_ORDER)))
def test_less_specific_quota_wins(first: int) -> None:
    quotas = {entity: {PRODUCER_BYTE_RATE: float(n)} for n, (entity, _) in enumerate(IN_ORDER[first:], 1)}
    limit = limit_of(quotas, PRODUCER_BYTE_RATE, "u", "c")
    assert limit is not None
    assert (limit.entity, limit.sharers) == IN_ORDER[first]
    assert limit.value == 1


def test_quota_of_another_name_hides_the_one_that_is_set() -> None:
    quotas = {QuotaEntity("u", "c"): {"consumer_byte_rate": 1.0}, QuotaEntity("u"): {PRODUCER_BYTE_RATE: 2.0}}
    limit = limit_of(quotas, PRODUCER_BYTE_RATE, "u", "c")
    assert limit is not None
    assert limit.value == 2


@pytest.mark.parametrize(
    "other", [QuotaEntity("v", "c"), QuotaEntity("u", "d"), QuotaEntity("v"), QuotaEntity(None, "d")]
)
def test_quota_of_somebody_else_holds(other: QuotaEntity) -> None:
    assert limit_of({other: {PRODUCER_BYTE_RATE: 1.0}}, PRODUCER_BYTE_RATE, "u", "c") is None


def test_client_without_an_id_escapes_the_defaults() -> None:
    for user, client_id in itertools.product((None, "u", DEFAULT), (None, DEFAULT)):
        if (user, client_id) == (None, None):
            continue
        quotas = {QuotaEntity(user, client_id): {PRODUCER_BYTE_RATE: 1.0}}
        assert limit_of(quotas, PRODUCER_BYTE_RATE, "u", "") is not None
