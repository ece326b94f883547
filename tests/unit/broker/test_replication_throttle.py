import math

from hypothesis import given
from hypothesis import strategies as st

from penstock.broker import keys
from penstock.broker.broker_config import BrokerConfig
from penstock.broker.config_table import INT64_MAX
from penstock.broker.image import ClusterImage
from penstock.broker.replication_throttle import (
    FOLLOWER_RATE,
    LEADER_RATE,
    ReplicationQuota,
    ThrottledRates,
    is_throttled,
)
from penstock.runtime.metadata import Entry, Snapshot


def image_with(configs: dict[int | None, dict[str, str]]) -> ClusterImage:
    entries = tuple(
        Entry(keys.broker_configs_key(node), keys.encode_configs(values), index, index)
        for index, (node, values) in enumerate(configs.items(), 1)
    )
    return ClusterImage.from_snapshot(Snapshot(entries, len(entries) + 1))


def test_a_broker_goes_by_the_throttle_of_another_or_none_by_its_own() -> None:
    config = BrokerConfig.from_properties({"node.id": "3", FOLLOWER_RATE: "70"})
    assert ThrottledRates.of(config, image_with({})) == ThrottledRates(INT64_MAX, 70)
    image = image_with({3: {LEADER_RATE: "10"}, 4: {LEADER_RATE: "11"}, None: {FOLLOWER_RATE: "20"}})
    assert ThrottledRates.of(config, image) == ThrottledRates(leader=10, follower=20)


def test_a_replica_is_throttled_that_is_not_named() -> None:
    assert not is_throttled((), 0, 1)
    assert is_throttled(("*",), 7, 9)
    assert is_throttled(("1:10", "11:1"), 11, 1)
    assert not is_throttled(("1:10", "11:1"), 1, 1)
    assert not is_throttled(("1:10", "11:1"), 10, 1)


def test_without_a_rate_nothing_ever_waits() -> None:
    quota = ReplicationQuota()
    quota.record(10**15, 0)
    assert not quota.is_spent(0)
    assert quota.wait_ms(0) == 0


def test_a_rate_of_zero_lets_anything_through() -> None:
    quota = ReplicationQuota(0)
    assert quota.is_spent(10**9)
    assert math.isinf(quota.wait_ms(10**9))


def test_a_new_rate_is_charged_for_what_was_sent_at_none() -> None:
    quota = ReplicationQuota()
    quota.record(10**9, 0)
    quota.set_rate(10, 1)
    assert not quota.is_spent(1)
    quota.record(10, 1)
    quota.set_rate(100, 1)
    assert quota.wait_ms(1) == 100
    quota.set_rate(INT64_MAX, 2)
    assert not quota.is_spent(2)


@given(
    st.integers(1, 10**9),
    st.lists(st.tuples(st.integers(1, 10**8), st.floats(0, 5000)), min_size=1, max_size=30),
)
def test_who_asks_first_gets_more_than_the_rate_and_one_answer(
    rate: int, tries: list[tuple[int, float]]
) -> None:
    quota, now_ms, sent = ReplicationQuota(rate), 0.0, 0
    for size_bytes, pause_ms in tries:
        now_ms += pause_ms
        if quota.is_spent(now_ms):
            now_ms += quota.wait_ms(now_ms) + 0.001
        assert not quota.is_spent(now_ms)
        assert sent <= (rate * now_ms / 1000) * 1.001 + max(size for size, _ in tries)
        quota.record(size_bytes, now_ms)
        sent += size_bytes
