"""Offsets that are to go: those past their retention, and those of topics that are deleted. And groups with nothing left.

Owns the rule of Kafka's `OffsetExpirationCondition`: an offset is kept while a member is subscribed to its topic; `offsets.retention.minutes`
count from when the group became empty, or from the commit where that is later or the group has no members of its own (simple consumers, or a
topic that nobody is subscribed to). A classic group with members that are no consumers, or that join anew, keeps all it has. An expiry time that
an old client asked for holds instead. Wall time decides here, as in Kafka.
"""

import logging
from collections.abc import Iterable

import trio

from penstock.broker.broker_config import BrokerConfig
from penstock.broker.groups.classic_driver import is_empty
from penstock.broker.groups.classic_events import ClassicState
from penstock.broker.groups.classic_group import ClassicGroup
from penstock.broker.groups.group import Group
from penstock.broker.groups.offset_table import NO_TOPIC_ID, CommittedOffset
from penstock.broker.groups.shard import GroupShard
from penstock.broker.groups.shard_services import ShardServices
from penstock.broker.groups.subscriptions import CONSUMER_PROTOCOL_TYPE
from penstock.broker.image import ClusterImage, TopicImage
from penstock.protocol.errors import ErrorCode
from penstock.protocol.group_records import NEVER_EXPIRES

log = logging.getLogger(__name__)

GROUPS_PER_TURN = 100
_MINUTE_MS = 60_000


class Expiry:
    """Goes through the groups every `offsets.retention.check.interval.ms`."""

    def __init__(self, services: ShardServices, image: ClusterImage, config: BrokerConfig) -> None:
        self._services = services
        self._image = image
        self._retention_ms = config.offsets_retention_minutes * _MINUTE_MS

    async def run(self, shards: Iterable[GroupShard]) -> None:
        """One round. Others get their turn in between."""
        count = 0
        for shard in tuple(shards):
            for group in tuple(shard.groups.values()):
                if shard.is_closed:
                    break
                if shard.groups.get(group.group_id) is group:
                    self._try_expire(shard, group)
                count += 1
                if count % GROUPS_PER_TURN == 0:
                    await trio.lowlevel.checkpoint()

    def _try_expire(self, shard: GroupShard, group: Group) -> None:
        try:
            self.expire(shard, group)
        except Exception:  # one group's bug must not stop the coordinator
            log.exception("group %r: looking for what has expired met a bug", group.group_id)

    def expire(self, shard: GroupShard, group: Group) -> None:
        """Delete what has expired of a group, and the group itself when nothing is left of it."""
        spared = {topic for topic in group.offsets.topics if _is_spared(group, topic)}
        expired = [
            (topic, index)
            for topic, index, committed in group.offsets
            if (topic, index) not in group.pending_offsets
            and self._is_over(group, topic, committed, is_spared=topic in spared)
        ]
        if is_empty(group) and not group.pending_offsets and len(expired) == len(group.offsets):
            if group.deadline_ms is None:  # else it has members that were given an id and may come
                shard.delete(group, self._log_failure)
        elif expired:
            shard.put_offsets(group, [(topic, index, None) for topic, index in expired], self._log_failure)

    def _is_over(self, group: Group, topic: str, committed: CommittedOffset, *, is_spared: bool) -> bool:
        if self._is_of_gone_topic(topic, committed):
            return True
        now_ms = self._services.clock.wall_ms()
        if is_spared:
            return False
        if committed.expire_timestamp_ms != NEVER_EXPIRES:
            return now_ms >= committed.expire_timestamp_ms
        since_ms = committed.commit_timestamp_ms
        if group.membership is not None and group.membership.empty_since_ms is not None:
            empty_for_ms = self._services.now_ms() - group.membership.empty_since_ms
            since_ms = max(since_ms, now_ms - empty_for_ms)
        return now_ms - since_ms >= self._retention_ms

    def _is_of_gone_topic(self, topic: str, committed: CommittedOffset) -> bool:
        if committed.topic_id == NO_TOPIC_ID:
            return False  # written by a version that did not say which topic it meant
        known = self._image.topic(topic)
        return known is None or known.topic_id != committed.topic_id

    def forget_topic(self, shards: Iterable[GroupShard], topic: TopicImage) -> None:
        """A topic was deleted: its offsets go with it."""
        for shard in shards:
            for group in shard.groups.values():
                gone = [
                    (topic.name, index, None)
                    for index, committed in group.offsets.of_topic(topic.name)
                    if committed.topic_id in (topic.topic_id, NO_TOPIC_ID)
                ]
                if gone:
                    self._try_delete(shard, group, gone)

    def forget_gone_topics(self, shard: GroupShard) -> None:
        """The shard was just loaded: topics may have been deleted or made anew while nobody looked after it."""
        for group in shard.groups.values():
            gone = [
                (topic, index, None)
                for topic, index, committed in group.offsets
                if self._is_of_gone_topic(topic, committed)
            ]
            if gone:
                self._try_delete(shard, group, gone)

    def _try_delete(
        self, shard: GroupShard, group: Group, offsets: Iterable[tuple[str, int, CommittedOffset | None]]
    ) -> None:
        try:
            shard.put_offsets(group, offsets, self._log_failure)
        except Exception:
            log.exception("group %r: deleting offsets of a topic that is gone met a bug", group.group_id)

    @staticmethod
    def _log_failure(code: ErrorCode) -> None:
        if code:
            log.warning("offsets that expired are not deleted yet: %s", code.name)


def _is_spared(group: Group, topic: str) -> bool:
    """Whether members may be using the topic."""
    membership = group.membership
    if membership is None:
        return False
    if isinstance(membership, ClassicGroup) and not is_empty(group):
        is_known = (
            membership.protocol_type == CONSUMER_PROTOCOL_TYPE and membership.state is ClassicState.STABLE
        )
        return not is_known or membership.is_subscribed_to(topic)
    return membership.is_subscribed_to(topic)
