"""IncrementalAlterConfigs, versions 0 and 1: sets, deletes, appends to and subtracts from single configs (KIP-339).

Append and subtract are for lists, and start from the value in effect. A config named twice in one resource and an unknown operation are
INVALID_REQUEST. For brokers these are the dynamic configs: of one broker, or of all (the empty name, KIP-226). Each resource stands or falls
by itself, and the changes of one are made together or not at all.
"""

from typing import TYPE_CHECKING

from penstock.broker.config_admin import AlterOperation, ConfigChange
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
    """Change the configs of every resource."""
    admin = broker.topics.configs
    validate_only: bool = request.validate_only

    async def change(resource: Message) -> int:
        changes = _changes(resource)
        if resource.resource_type == ResourceType.TOPIC:
            name: str = resource.resource_name
            return await admin.change_topic_configs(name, changes, validate_only=validate_only)
        if resource.resource_type == ResourceType.BROKER:
            node_id = parse_broker_name(resource.resource_name)
            return await admin.change_broker_configs(node_id, changes, validate_only=validate_only)
        raise unsupported(resource.resource_type)

    return Message(responses=await alter_each(broker, request.resources, change))


def _changes(resource: Message) -> list[ConfigChange]:
    check_names_differ(config.name for config in resource.configs)
    changes: list[ConfigChange] = []
    for config in resource.configs:
        try:
            operation = AlterOperation(config.config_operation)
        except ValueError:
            raise ApiError(
                ErrorCode.INVALID_REQUEST,
                f"{shown(config.name)}: there is no operation {config.config_operation}",
            ) from None
        changes.append(ConfigChange(config.name, operation, config.value))
    return changes
