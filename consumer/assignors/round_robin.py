"""`roundrobin`: all partitions in order, dealt to the members in turn, as Java's RoundRobinAssignor."""

from collections.abc import Collection, Mapping

from penstock.client.metadata import TopicPartition
from penstock.consumer.assignors.assignor import Assignment, GroupSubscription


class RoundRobinAssignor:
    """Eager only."""

    name = "roundrobin"
    is_cooperative = False

    def user_data(self, last_assignment: Collection[TopicPartition], generation: int) -> bytes | None:
        """None."""
        return None

    def assign(self, group: GroupSubscription, partition_counts: Mapping[str, int]) -> Assignment:
        """A member that is not subscribed to a topic is passed over."""
        assignment: dict[str, list[TopicPartition]] = {member_id: [] for member_id in group.members}
        in_turn = group.in_order(group.members)
        topics_of = {member_id: frozenset(member.topics) for member_id, member in group.members.items()}
        turn = 0
        for topic in sorted(group.topics & partition_counts.keys()):
            for index in range(partition_counts[topic]):
                while topic not in topics_of[in_turn[turn % len(in_turn)]]:
                    turn += 1
                assignment[in_turn[turn % len(in_turn)]].append(TopicPartition(topic, index))
                turn += 1
        return assignment


__all__ = ["RoundRobinAssignor"]
