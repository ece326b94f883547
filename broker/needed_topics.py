"""Topics that a broker needs itself: `__consumer_offsets`, and those that clients ask for before they exist.

Owns where they are made: here, if this broker is the controller, else by CreateTopics on the controller's inter-broker listener; and the wait until this
broker's image shows them. What a topic is made like is its maker's affair: counts and factors are asked for as "the default", so the
controller's configs decide. Source: Kafka's `AutoTopicCreationManager`.
"""

from collections.abc import Sequence

import trio

from penstock.broker.broker_config import BrokerConfig
from penstock.broker.controller_requests import ask_controller
from penstock.broker.errors import ApiError
from penstock.broker.groups.offsets_topic import OFFSETS_TOPIC, new_offsets_topic
from penstock.broker.image import ClusterImage
from penstock.broker.metadata_watch import MetadataWatch
from penstock.broker.topic_admin import DEFAULT, NewTopic, TopicAdmin
from penstock.errors import PenstockError
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message
from penstock.runtime.network import Network

RETRY_DELAY_S = 0.1
TIMEOUT_MS = 2_000
FIRST_VERSION_WITH_DEFAULTS = 4

Failures = dict[str, ApiError]


class NeededTopics:
    """Makes topics for this broker's own sake."""

    def __init__(
        self,
        network: Network,
        config: BrokerConfig,
        watch: MetadataWatch,
        topics: TopicAdmin,
    ) -> None:
        self._network = network
        self._config = config
        self._watch = watch
        self._image: ClusterImage = watch.image
        self._topics = topics

    async def make(self, names: Sequence[str]) -> Failures:
        """Make those that are not there; returns when the image shows them. Those that can't be made are returned with the reason.

        Tries for as long as there is no controller, or it can't be reached: to be called in a scope that ends. Cancellation: each topic may or
        may not be made.
        """
        while True:
            missing = [name for name in names if self._image.topic(name) is None]
            failures = await self._ask(missing) if missing else {}
            if all(error.code != ErrorCode.NOT_CONTROLLER for error in failures.values()):
                break
            await trio.sleep(RETRY_DELAY_S)
        failures = {
            name: error for name, error in failures.items() if error.code != ErrorCode.TOPIC_ALREADY_EXISTS
        }
        for name in names:
            while name not in failures and self._image.topic(name) is None:
                await self._watch.wait_for(self._image.revision + 1)
        return failures

    async def _ask(self, names: Sequence[str]) -> Failures:
        controller = self._image.controller
        if controller is not None and controller.node_id == self._config.node_id:
            return await self._make_here(names)
        try:
            return await self._make_there(names)
        except ApiError as error:
            return dict.fromkeys(names, error)
        except PenstockError as error:
            failure = ApiError(ErrorCode.NOT_CONTROLLER, f"the controller can't be asked: {error}")
            return dict.fromkeys(names, failure)

    async def _make_here(self, names: Sequence[str]) -> Failures:
        failures: Failures = {}
        for name in names:
            try:
                await self._topics.create(wanted_topic(name, self._config))
            except ApiError as error:
                failures[name] = error
        return failures

    async def _make_there(self, names: Sequence[str]) -> Failures:
        def by_default(name: str) -> Message:
            return Message(
                name=name, num_partitions=DEFAULT, replication_factor=DEFAULT, assignments=[], configs=[]
            )

        topics = [by_default(name) for name in names]
        answer = await ask_controller(
            self._network,
            self._config,
            self._image,
            ApiKey.CREATE_TOPICS,
            Message(topics=topics, timeout_ms=TIMEOUT_MS, validate_only=False),
            at_least=FIRST_VERSION_WITH_DEFAULTS,
        )
        return {
            topic.name: ApiError(ErrorCode(topic.error_code), topic.error_message)
            for topic in answer.topics
            if topic.error_code
        }


def wanted_topic(name: str, config: BrokerConfig) -> NewTopic:
    """A topic as the controller makes it where nothing but its name is said."""
    return new_offsets_topic(config) if name == OFFSETS_TOPIC else NewTopic(name)
