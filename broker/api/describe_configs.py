"""DescribeConfigs, versions 1 to 4: effective configs, where they come from, and what they mean.

- Topics, this broker (its id as the name), and the dynamic configs of all brokers (the empty name; only what is set there).
- Null or empty keys mean all configs. Synonyms and documentation on request (KIP-226, KIP-569); types from version 3 on.
- Other resources (log levels, client metrics, groups) and other brokers' configs: INVALID_REQUEST with a message.
- A config that is stored but not acted on yet says so in its documentation.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from penstock.broker.broker_config import broker_config_definitions, effective_broker_configs
from penstock.broker.config_resources import ResourceType, parse_broker_name, unsupported
from penstock.broker.config_table import ConfigLayers, ConfigSource, EffectiveConfig, resolve, shown
from penstock.broker.context import RequestContext
from penstock.broker.errors import ApiError
from penstock.broker.names import topic_name_fault
from penstock.broker.topic_config import effective_topic_configs
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

if TYPE_CHECKING:
    from penstock.broker.broker import Broker

NOT_ACTED_ON = " (Stored, but this version does not act on it yet.)"


async def handle(broker: "Broker", context: RequestContext, request: Message) -> Message:
    """Describe every resource; an error of one leaves the others alone."""
    return Message(results=[_result(broker, request, resource) for resource in request.resources])


def _result(broker: "Broker", request: Message, resource: Message) -> Message:
    code, message = ErrorCode.NONE, None
    configs: list[Message] = []
    try:
        wanted: set[str] = set(resource.configuration_keys or [])
        configs = [
            _config(config, request)
            for config in _effective(broker, resource)
            if not wanted or config.definition.name in wanted
        ]
    except ApiError as error:
        code, message = error.code, str(error)
    return Message(
        error_code=code,
        error_message=message,
        resource_type=resource.resource_type,
        resource_name=resource.resource_name,
        configs=configs,
    )


def _effective(broker: "Broker", resource: Message) -> Iterable[EffectiveConfig]:
    name = resource.resource_name
    if resource.resource_type == ResourceType.TOPIC:
        if topic_name_fault(name) is not None:
            raise ApiError(ErrorCode.INVALID_TOPIC_EXCEPTION, f"{shown(name)} is no topic name.")
        if broker.image.topic(name) is None:
            raise ApiError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"There is no topic {shown(name)}.")
        return effective_topic_configs(broker.topics.configs.topic_layers(name))
    if resource.resource_type != ResourceType.BROKER:
        raise unsupported(resource.resource_type)
    node_id = parse_broker_name(name)
    if node_id is None:
        return _of_all_brokers(broker)
    if node_id != broker.config.node_id:
        raise ApiError(
            ErrorCode.INVALID_REQUEST, f"Ask broker {node_id} itself; this is broker {broker.config.node_id}."
        )
    return effective_broker_configs(broker.topics.configs.broker_layers())


def _of_all_brokers(broker: "Broker") -> list[EffectiveConfig]:
    """Only what is set for all brokers, as if nothing else had been."""
    overrides = broker.image.broker_configs(None)
    definitions = broker_config_definitions()
    layers = ConfigLayers(all_brokers=overrides)
    known = (definitions[name] for name in sorted(overrides) if name in definitions)
    return [resolve(definition, layers) for definition in known]


def _config(config: EffectiveConfig, request: Message) -> Message:
    definition = config.definition
    secret = definition.is_sensitive
    settings = config.settings if request.include_synonyms else ()
    documentation = definition.doc + ("" if definition.acted_on else NOT_ACTED_ON)
    return Message(
        name=definition.name,
        value=None if secret else config.text,
        read_only=not definition.dynamic,
        config_source=config.source,
        is_sensitive=secret,
        synonyms=[
            Message(name=s.name, value=None if secret else s.text, source=s.source)
            for s in settings
            if s.text is not None or s.source is not ConfigSource.DEFAULT
        ],
        config_type=definition.type,
        documentation=documentation if request.include_documentation else None,
    )
