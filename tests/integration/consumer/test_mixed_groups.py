"""Penstock's members in one group with those of other clients, each as the leader in turn."""

from collections.abc import Iterator

import pytest
from tests.support.foreign_members import CLIENTS, ForeignMember, quiet_end
from tests.support.group_members import all_partitions, members
from tests.support.processes import RunningServer
from tests.support.topics import create_topic, fresh_name
from tests.support.wire import Connection, connect

COUNT = 6
PAIRS = [
    (client, assignor)
    for client, assignors in {
        "confluent-kafka": ("range", "roundrobin", "cooperative-sticky"),
        "kafka-python": ("range", "sticky", "cooperative-sticky"),
        "aiokafka": ("range", "roundrobin", "sticky"),
    }.items()
    for assignor in assignors
]


@pytest.fixture
def connection(group_server: RunningServer) -> Iterator[Connection]:
    """A raw connection to the broker of the groups."""
    with connect(group_server.bootstrap) as connected:
        yield connected


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of kafka-python's own making
@pytest.mark.parametrize("leads", ["penstock", "other"])
@pytest.mark.parametrize(("client", "assignor"), PAIRS, ids=lambda value: str(value))
async def test_members_of_two_clients_share_and_take_over(
    group_server: RunningServer, connection: Connection, client: str, assignor: str, leads: str
) -> None:
    topic, group_id = create_topic(connection, "mixed", partitions=COUNT), fresh_name("mixed")
    everything = all_partitions(topic, COUNT)
    foreign: list[ForeignMember] = []
    with quiet_end(foreign):
        async with members(group_server.bootstrap) as group:

            def start_other() -> ForeignMember:
                other = CLIENTS[client](
                    group.ledger, client, group_server.bootstrap, group_id, topic, assignor
                )
                foreign.append(other)
                return other

            if leads == "other":
                other = start_other()
                await group.ledger.until(lambda: other.owned == everything, 30)
                own = group.start(group=group_id, topics=(topic,), assignors=(assignor,))
            else:
                own = group.start(group=group_id, topics=(topic,), assignors=(assignor,))
                await group.ledger.until(lambda: own.owned == everything, 30)
                other = start_other()
            await group.ledger.until(lambda: len(own.owned) == len(other.owned) == COUNT // 2, 30)
            third = group.start(group=group_id, topics=(topic,), assignors=(assignor,))
            await group.ledger.until(
                lambda: [len(own.owned), len(other.owned), len(third.owned)] == [2, 2, 2], 30
            )
            await other.leave()
            await group.ledger.until(lambda: own.owned | third.owned == everything, 30)
            again = start_other()
            await group.ledger.until(lambda: len(again.owned) == 2, 30)
            await own.membership.leave()
            await third.membership.leave()
            await group.ledger.until(lambda: again.owned == everything, 30)
            await again.leave()
