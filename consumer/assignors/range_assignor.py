"""`range`: of each topic, consecutive partitions to each subscriber, as Java's RangeAssignor without racks.

Topics with equal partition counts and equal subscribers are co-partitioned: a member has the same partitions of each.
"""

from collections.abc import Collection, Mapping

from penstock.client.metadata import TopicPartition
from penstock.consumer.assignors.assignor import Assignment, GroupSubscription, subscribers_by_topic


class RangeAssignor:
    """Eager only."""

    name = "range"
    is_cooperative = False

    def user_data(self, last_assignment: Collection[TopicPartition], generation: int) -> bytes | None:
        """None."""
        return None

    def assign(self, group: GroupSubscription, partition_counts: Mapping[str, int]) -> Assignment:
        """The first members of a topic have one more where it does not come out even."""
        assignment: dict[str, list[TopicPartition]] = {member_id: [] for member_id in group.members}
        for topic, subscribers in subscribers_by_topic(group, partition_counts).items():
            share, extra = divmod(partition_counts[topic], len(subscribers))
            begin = 0
            for place, member_id in enumerate(subscribers):
                end = begin + share + (place < extra)
                assignment[member_id] += [TopicPartition(topic, index) for index in range(begin, end)]
                begin = end
        return assignment


__all__ = ["RangeAssignor"]
