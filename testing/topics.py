"""Topics of tests, made and deleted through the admin client."""

from collections.abc import Mapping

from penstock.client.admin import Admin
from penstock.client.admin_values import CreatedTopic, NewTopic
from penstock.client.errors import BrokerError, UnknownTopic
from penstock.runtime.environment import Environment


async def create_topic(
    bootstrap: str,
    name: str,
    partitions: int,
    configs: Mapping[str, str],
    environment: Environment | None = None,
) -> CreatedTopic:
    """Make a topic that can be used on return. Raises BrokerError. Cancellation: it may or may not have been made."""
    async with Admin(bootstrap, environment) as admin:
        topic = NewTopic(name=name, partition_count=partitions, configs=configs)
        outcome = (await admin.create_topics([topic]))[name]
    if isinstance(outcome, BrokerError):
        raise outcome
    return outcome


async def delete_topic(bootstrap: str, name: str, environment: Environment | None = None) -> None:
    """Delete a topic; no error where it is gone already. Raises BrokerError. Cancellation: it may or may not be gone."""
    async with Admin(bootstrap, environment) as admin:
        outcome = (await admin.delete_topics([name]))[name]
    if outcome is not None and not isinstance(outcome, UnknownTopic):
        raise outcome


__all__ = ["create_topic", "delete_topic"]
