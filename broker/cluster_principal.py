"""Who may act as a broker of this cluster: fetch as a follower, which moves high watermarks and so gives acks.

The one place where a cluster principal is demanded (PROPERTIES, network bounds). Authentication is not there yet, so everybody may; what a
fetch with a replica id is worth is then decided by the registration that it names (`replication/follower_fetch.py`).
Source: Kafka's ClusterAction on Cluster in `KafkaApis.handleFetchRequest`.
"""

from typing import Protocol


class ClusterPrincipals(Protocol):
    """Says who is a broker."""

    def may_act_as_broker(self, principal: str, listener: str) -> bool:
        """Whether `principal` (Kafka's form, `User:name`), connected to the listener of that name, may fetch as a follower."""
        ...


class Everybody:
    """Without authentication nobody can be told from anybody."""

    def may_act_as_broker(self, principal: str, listener: str) -> bool:
        """Yes."""
        return True


EVERYBODY = Everybody()

__all__ = ["EVERYBODY", "ClusterPrincipals", "Everybody"]
