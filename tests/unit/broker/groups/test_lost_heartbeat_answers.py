"""What a member was told and may not have heard is told again, though it does not ask by telling all that it has.

librdkafka 2.16 sends an ordinary heartbeat again when one took longer than the interval. Told only once, as by Kafka, it held on to
partitions that it was to give up until its rebalance timeout, or nobody read one that it was given.
"""

import pytest
from tests.support.consumer_group_members import Client, FakeTopics, GroupBench, flat

from penstock.broker.groups.consumer_group_events import LEAVE_EPOCH, ConsumerHeartbeatReply


@pytest.fixture
def bench() -> GroupBench:
    """A group whose stores land at once, and a topic `t` of 4 partitions."""
    return GroupBench(FakeTopics(t=4))


def lose(bench: GroupBench, client: Client) -> ConsumerHeartbeatReply:
    """A heartbeat whose answer does not arrive; the next one is as ordinary as this one."""
    token = bench.token()
    bench.step(client.heartbeat(token))
    client.waits_for = None
    reply = bench.replies.pop(token)
    assert isinstance(reply, ConsumerHeartbeatReply)
    return reply


def test_a_member_that_missed_what_it_must_give_up_holds_on_to_it(bench: GroupBench) -> None:
    a, b = Client("a", names=("t",)), Client("b", names=("t",))
    bench.settle(a)
    bench.beat(b)
    lost = lose(bench, a)
    assert len(flat(lost.assignment)) == 2
    assert lose(bench, a).assignment == lost.assignment
    bench.restart()
    assert lose(bench, a).assignment == lost.assignment, "the next coordinator does not know either"
    bench.settle(a, b)
    assert (len(a.owned), len(b.owned)) == (2, 2)
    assert bench.beat(a).assignment is None, "what is known is not told"


def test_a_member_that_missed_what_it_was_given_never_takes_it_on(bench: GroupBench) -> None:
    """Its epoch stays the same: nothing else would ever tell it."""
    a, b = Client("a", names=("t",)), Client("b", names=("t",))
    bench.settle(a)
    bench.beat(b)
    bench.beat(a)
    a.reconcile()
    bench.beat(a)
    lost = lose(bench, b)
    assert (lost.member_epoch, len(flat(lost.assignment))) == (b.epoch, 2)
    assert lose(bench, b).assignment == lost.assignment
    bench.settle(a, b)
    assert len(b.owned) == 2
    assert bench.beat(b).assignment is None, "what is known is not told"


def test_who_leaves_without_having_heard_is_remembered_and_told_twice_when_it_joins_again(
    bench: GroupBench,
) -> None:
    a = Client("a", names=("t",))
    bench.settle(a)
    bench.topics.put("t", 5)
    bench.change_topics()
    assert len(flat(lose(bench, a).assignment)) == 5
    a.epoch = LEAVE_EPOCH
    bench.beat(a)
    a.epoch = 0
    assert len(flat(bench.beat(a).assignment)) == 5
    assert lose(bench, a).assignment is None
