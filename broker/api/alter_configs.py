"""AlterConfigs, versions 0 to 2: replaces all configs of topics and brokers (KIP-133); what is not named falls back to its default.

Superseded by IncrementalAlterConfigs, but all that older clients have. Null is no value (INVALID_REQUEST), a config named twice neither. For
brokers these are the dynamic configs: of one broker, or of all (the empty name, KIP-226). Each resource stands or falls by itself.
"""

from typing import TYPE_CHECKING

from penstock.broker.config_resources import (
    ResourceType,
    alter_each,
    check_names_differ,
    parse_broker_name,
    unsupported,
)
from penstock.broker.config_table import shown
from penstock.broker.context import RequestContext
from penstock.broker.errors import ApiError
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

if TYPE_CHECKING:
    from penstock.broker.broker import Broker


async def handle(broker: "Broker", context: RequestContext, request: Message) -> Message:
    """Replace the configs of every resource."""
    admin = broker.topics.configs
    validate_only: bool = request.validate_only

    async def replace(resource: Message) -> int:
        configs = _configs(resource)
        if resource.resource_type == ResourceType.TOPIC:
            name: str = resource.resource_name
            return await admin.replace_topic_configs(name, configs, validate_only=validate_only)
        if resource.resource_type == ResourceType.BROKER:
            node_id = parse_broker_name(resource.resource_name)
            return await admin.replace_broker_configs(node_id, configs, validate_only=validate_only)
        raise unsupported(resource.resource_type)

    return Message(responses=await alter_each(broker, request.resources, replace))


def _configs(resource: Message) -> dict[str, str]:
    check_names_differ(config.name for config in resource.configs)
    for config in resource.configs:
        if config.value is None:
            raise ApiError(ErrorCode.INVALID_REQUEST, f"{shown(config.name)}: null is no value")
    return {config.name: config.value for config in resource.configs}
