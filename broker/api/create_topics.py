"""CreateTopics, versions 2 to 7: makes topics, or checks that they could be made (`validate_only`, KIP-4).

- Count and replication factor -1 take the broker's defaults (KIP-464); with an assignment of replicas both have to be -1.
- Each topic stands or falls by itself; a name given twice is INVALID_REQUEST for all of its entries, answered once.
- The answer goes out when this broker's replicas can be used, so that a produce right after it works. If that takes longer than the timeout,
  the answer is still a success: the topic is stored, and clients wait for leaders by themselves.
- An internal topic is made as the broker makes it itself, if nothing but its name is said: that is how a broker that is not the controller asks.
- Versions 5 and up tell partition count, factor and effective configs (KIP-525), 7 and up the topic id (KIP-516). Java's client takes no null
  for the list of configs, so a failure has an empty one.
"""

from collections import Counter
from typing import TYPE_CHECKING

from penstock.broker.config_table import shown
from penstock.broker.context import RequestContext
from penstock.broker.errors import ApiError
from penstock.broker.names import INTERNAL_TOPICS
from penstock.broker.needed_topics import wanted_topic
from penstock.broker.readiness import wait_until_seen
from penstock.broker.topic_admin import DEFAULT, CreatedTopic, NewTopic
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

if TYPE_CHECKING:
    from penstock.broker.broker import Broker

UNKNOWN = -1


async def handle(broker: "Broker", context: RequestContext, request: Message) -> Message:
    """Make the topics one after the other, then wait for all of them."""
    counts = Counter(topic.name for topic in request.topics)
    results: dict[str, Message] = {}
    made: list[CreatedTopic] = []
    for topic in request.topics:
        if topic.name in results:
            continue
        try:
            if counts[topic.name] > 1:
                raise ApiError(ErrorCode.INVALID_REQUEST, f"Topic {shown(topic.name)} is named twice.")
            created = await broker.topics.create(
                _new_topic(broker, topic), validate_only=request.validate_only
            )
        except ApiError as error:
            results[topic.name] = _failure(topic.name, error)
        else:
            results[topic.name] = _success(topic.name, created)
            made.append(created)
    if made and not request.validate_only:
        await wait_until_seen(
            broker, made[-1].revision, request.timeout_ms, topic_ids=[created.topic_id for created in made]
        )
    return Message(topics=list(results.values()))


def _new_topic(broker: "Broker", topic: Message) -> NewTopic:
    if topic.name in INTERNAL_TOPICS:
        is_plain = topic.num_partitions == topic.replication_factor == DEFAULT
        if broker.image.topic(topic.name) is None and (not is_plain or topic.assignments or topic.configs):
            raise ApiError(ErrorCode.INVALID_REQUEST, f"The broker makes topic {topic.name} itself.")
        return wanted_topic(topic.name, broker.config)
    configs: dict[str, str] = {}
    for config in topic.configs:
        if config.value is None or config.name in configs:
            fault = "null is no value" if config.value is None else "it is given twice"
            raise ApiError(ErrorCode.INVALID_CONFIG, f"{shown(config.name)}: {fault}")
        configs[config.name] = config.value
    assignments = [(entry.partition_index, tuple(entry.broker_ids)) for entry in topic.assignments]
    return NewTopic(topic.name, topic.num_partitions, topic.replication_factor, assignments, configs)


def _success(name: str, created: CreatedTopic) -> Message:
    configs = [
        Message(
            name=config.definition.name,
            value=None if config.definition.is_sensitive else config.text,
            read_only=False,
            config_source=config.source,
            is_sensitive=config.definition.is_sensitive,
        )
        for config in created.configs
    ]
    return Message(
        name=name,
        topic_id=created.topic_id,
        error_code=ErrorCode.NONE,
        error_message=None,
        num_partitions=created.partition_count,
        replication_factor=created.replication_factor,
        configs=configs,
    )


def _failure(name: str, error: ApiError) -> Message:
    return Message(
        name=name,
        error_code=error.code,
        error_message=str(error),
        num_partitions=UNKNOWN,
        replication_factor=UNKNOWN,
        configs=[],
    )
