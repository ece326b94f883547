"""What may befall a cluster whose processes are in network namespaces, each as a block: it is hurt when the block begins, and whole again after it.

`FAULTS` are all of them by name. Where `serves_meanwhile`, every partition has a leader that commits while the fault lasts: clients must get on.
Otherwise somebody is without service until it is healed (a leader without its followers, all leaders without etcd), and what must hold is that
nothing wrong is acked.
"""

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from tests.support.cluster.brokers import BrokerNode
from tests.support.cluster.cluster import SESSION_MS, Cluster
from tests.support.cluster.hosts import Namespaces
from tests.support.deadline import until

PAST_THE_SESSION_S = 1.5 * SESSION_MS / 1000


@dataclass(frozen=True, slots=True)
class Place:
    """Where it happens: to the leader of a partition."""

    cluster: Cluster
    network: Namespaces
    topic: str
    index: int

    @property
    def leader(self) -> BrokerNode:
        """Of now."""
        return self.cluster.brokers[self.cluster.leader_of(self.topic, self.index)]

    def others(self, node: BrokerNode) -> list[BrokerNode]:
        """All brokers but one."""
        return [broker for broker in self.cluster.brokers.values() if broker is not node]


Block = Callable[[Place], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind."""

    name: str
    block: Block
    serves_meanwhile: bool = True


@contextmanager
def _killed(place: Place) -> Generator[None]:
    leader = place.leader
    leader.kill()
    _await_successor(place, leader)
    yield
    leader.start()


@contextmanager
def _frozen(place: Place) -> Generator[None]:
    leader = place.leader
    leader.freeze()
    _await_successor(place, leader)
    yield
    leader.thaw()


@contextmanager
def _cut_from_etcd(place: Place) -> Generator[None]:
    leader = place.leader
    place.network.cut(leader.host, place.cluster.etcd.host)
    _await_successor(place, leader)
    yield
    place.network.heal()


@contextmanager
def _deaf_to_etcd(place: Place) -> Generator[None]:
    """What the leader asks of etcd arrives there; the answers do not come back."""
    leader = place.leader
    place.network.cut_one_way(place.cluster.etcd.host, leader.host)
    _await_successor(place, leader)
    yield
    place.network.heal()


@contextmanager
def _cut_from_all(place: Place) -> Generator[None]:
    leader = place.leader
    others = [broker.host for broker in place.others(leader)]
    place.network.isolate(leader.host, [*others, place.cluster.etcd.host])
    _await_successor(place, leader)
    yield
    place.network.heal()


@contextmanager
def _cut_from_followers(place: Place) -> Generator[None]:
    leader = place.leader
    place.network.isolate(leader.host, [broker.host for broker in place.others(leader)])
    _pass_the_session()
    yield
    place.network.heal()


@contextmanager
def _followers_not_heard(place: Place) -> Generator[None]:
    leader = place.leader
    for follower in place.others(leader):
        place.network.cut_one_way(follower.host, leader.host)
    _pass_the_session()
    yield
    place.network.heal()


@contextmanager
def _follower_cut(place: Place) -> Generator[None]:
    """One follower from the leader: it leaves the ISR, and the other one commits."""
    leader = place.leader
    follower = place.others(leader)[0]
    place.network.cut(leader.host, follower.host)
    yield
    place.network.heal()


@contextmanager
def _etcd_killed(place: Place) -> Generator[None]:
    etcd = place.cluster.etcd
    etcd.kill()
    _pass_the_session()
    yield
    etcd.start()


@contextmanager
def _etcd_frozen(place: Place) -> Generator[None]:
    etcd = place.cluster.etcd
    etcd.freeze()
    _pass_the_session()
    yield
    etcd.thaw()


def _await_successor(place: Place, leader: BrokerNode) -> None:
    """Wait until the others, of whom one at least answers, follow somebody else."""

    def has_successor() -> bool:
        for node in place.others(leader):
            view = place.cluster.partition(place.topic, place.index, via=node)
            if view is not None and view.leader not in (-1, leader.node_id):
                return True
        return False

    until(has_successor, f"a successor of broker {leader.node_id}", limit_s=30)


def _pass_the_session() -> None:
    """Let the time pass after which leases end and leaders fence themselves: that is what the fault is about, and no event tells of it."""
    time.sleep(PAST_THE_SESSION_S)


FAULTS: Mapping[str, Fault] = {
    fault.name: fault
    for fault in (
        Fault("leader killed", _killed),
        Fault("leader frozen", _frozen),
        Fault("leader cut from etcd", _cut_from_etcd),
        Fault("leader deaf to etcd", _deaf_to_etcd),
        Fault("leader cut from all", _cut_from_all),
        Fault("leader cut from its followers", _cut_from_followers, serves_meanwhile=False),
        Fault("leader does not hear its followers", _followers_not_heard, serves_meanwhile=False),
        Fault("one follower cut from the leader", _follower_cut),
        Fault("etcd killed", _etcd_killed, serves_meanwhile=False),
        Fault("etcd frozen", _etcd_frozen, serves_meanwhile=False),
    )
}
