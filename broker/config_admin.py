"""Alters the configs of topics and brokers, by compare-and-swap on their one key.

Owns what an alteration means (replace all, or set, delete, append and subtract single ones) and its checks. Knows no request formats; its
caller waits until the image shows what was stored. Source: KIP-133, KIP-226, KIP-339; Kafka's `ConfigAdminManager`.

Invariant: what is stored passed the checks as a whole, so two alterations at once can't leave values that contradict each other.
"""

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from penstock.broker import keys
from penstock.broker.broker_config import BrokerConfig, broker_config_definitions, check_broker_configs
from penstock.broker.config_table import (
    ConfigDefinition,
    ConfigLayers,
    ConfigType,
    resolve,
    shown,
)
from penstock.broker.errors import ApiError, ConfigError
from penstock.broker.image import ClusterImage
from penstock.broker.topic_config import check_topic_configs, topic_config_definitions
from penstock.broker.transactions import Transaction, metadata_failure, transact
from penstock.protocol.errors import ErrorCode
from penstock.runtime.metadata import Compare, Delete, MetadataError, MetadataStore, Put

CONTENDED_ATTEMPT_COUNT_MAX = 20

Overrides = dict[str, str]
Change = Callable[[Overrides], Overrides]
"""From the overrides as stored to the new ones; raises ApiError."""


class AlterOperation(enum.IntEnum):
    """What IncrementalAlterConfigs does with one config; the numbers of the request."""

    SET = 0
    DELETE = 1
    APPEND = 2
    SUBTRACT = 3


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """One operation on one config; `value` is not looked at for DELETE."""

    name: str
    operation: AlterOperation
    value: str | None


@dataclass(frozen=True, slots=True)
class _Resource:
    """What has configs: the key they are under, what must still be so, and how they are checked and described."""

    key: str
    unchanged: Sequence[Compare]
    definitions: Mapping[str, ConfigDefinition]
    layers: Callable[[Mapping[str, str]], ConfigLayers]
    check: Callable[[Mapping[str, str]], None]


class ConfigAdmin:
    """The alterations. All methods raise ApiError and change nothing then, except where its code is REQUEST_TIMED_OUT.

    They return the revision at which the image shows the change, 0 where nothing had to be stored. Durable on return.
    Cancellation: all of the alteration is stored, or nothing.
    """

    def __init__(self, store: MetadataStore, image: ClusterImage, config: BrokerConfig) -> None:
        self._store = store
        self._image = image
        self._config = config

    def topic_layers(self, name: str) -> ConfigLayers:
        """Who may have set a topic's configs, as of the image."""
        return self._topic_layers(self._image.topic_configs(name))

    def broker_layers(self) -> ConfigLayers:
        """Who may have set this broker's configs, as of the image."""
        image, node_id = self._image, self._config.node_id
        return self._config.topic_layers({}, image.broker_configs(node_id), image.broker_configs(None))

    async def replace_topic_configs(
        self, name: str, configs: Mapping[str, str], *, validate_only: bool = False
    ) -> int:
        """Make `configs` the topic's only overrides (AlterConfigs)."""
        return await self._alter(self._topic(name), lambda _: dict(configs), validate_only)

    async def change_topic_configs(
        self, name: str, changes: Sequence[ConfigChange], *, validate_only: bool = False
    ) -> int:
        """Apply single changes to the topic's overrides (IncrementalAlterConfigs)."""
        resource = self._topic(name)
        return await self._alter(resource, lambda old: _changed(resource, old, changes), validate_only)

    async def replace_broker_configs(
        self, node_id: int | None, configs: Mapping[str, str], *, validate_only: bool = False
    ) -> int:
        """Make `configs` the only dynamic configs of a broker, or of all brokers together (None)."""
        return await self._alter(self._broker(node_id), lambda _: dict(configs), validate_only)

    async def change_broker_configs(
        self, node_id: int | None, changes: Sequence[ConfigChange], *, validate_only: bool = False
    ) -> int:
        """Apply single changes to the dynamic configs of a broker, or of all brokers together (None)."""
        resource = self._broker(node_id)
        return await self._alter(resource, lambda old: _changed(resource, old, changes), validate_only)

    # Inside.

    def _topic_layers(self, overrides: Mapping[str, str]) -> ConfigLayers:
        image = self._image
        return self._config.topic_layers(
            overrides, image.broker_configs(self._config.node_id), image.broker_configs(None)
        )

    def _topic(self, name: str) -> _Resource:
        topic = self._image.topic(name)
        if topic is None:
            raise ApiError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"There is no topic {shown(name)}.")
        return _Resource(
            keys.topic_configs_key(name),
            [Compare(keys.topic_key(name), create_revision=topic.create_revision)],
            topic_config_definitions(),
            self._topic_layers,
            lambda overrides: check_topic_configs(overrides, self._topic_layers(overrides)),
        )

    def _broker(self, node_id: int | None) -> _Resource:
        if node_id is not None and node_id not in self._image.brokers:
            raise ApiError(ErrorCode.INVALID_REQUEST, f"There is no broker {node_id}.")

        def layers(overrides: Mapping[str, str]) -> ConfigLayers:
            static = self._config.static
            if node_id is None:
                return ConfigLayers(all_brokers=overrides, static=static)
            return ConfigLayers(broker=overrides, all_brokers=self._image.broker_configs(None), static=static)

        return _Resource(
            keys.broker_configs_key(node_id), [], broker_config_definitions(), layers, check_broker_configs
        )

    async def _alter(self, resource: _Resource, change: Change, validate_only: bool) -> int:
        try:
            for _ in range(CONTENDED_ATTEMPT_COUNT_MAX):
                entry = await self._store.get(resource.key)
                old = keys.decode_configs(resource.key, entry.value) if entry else {}
                new = change(old)
                try:
                    resource.check(new)
                except ConfigError as error:
                    raise ApiError(ErrorCode.INVALID_CONFIG, str(error)) from error
                if validate_only or new == old:
                    return 0
                compare = Compare(resource.key, mod_revision=entry.mod_revision if entry else 0)
                write = Put(resource.key, keys.encode_configs(new)) if new else Delete(resource.key)
                result = await transact(self._store, Transaction([compare, *resource.unchanged], [write]))
                if result.succeeded:
                    return result.revision
                await self._check_still_there(resource)
        except MetadataError as error:
            raise metadata_failure(error) from error
        raise ApiError(ErrorCode.REQUEST_TIMED_OUT, "Others keep changing the same configs.")

    async def _check_still_there(self, resource: _Resource) -> None:
        for compare in resource.unchanged:
            entry = await self._store.get(compare.key)
            if entry is None or entry.create_revision != compare.create_revision:
                raise ApiError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "The topic was deleted meanwhile.")


def _changed(resource: _Resource, old: Overrides, changes: Sequence[ConfigChange]) -> Overrides:
    new = dict(old)
    for change in changes:
        definition = resource.definitions.get(change.name)
        if definition is None:
            raise ApiError(ErrorCode.INVALID_CONFIG, f"unknown config {shown(change.name)}")
        if change.operation is AlterOperation.DELETE:
            new.pop(change.name, None)
        elif change.value is None:
            raise ApiError(ErrorCode.INVALID_REQUEST, f"{change.name}: null is no value")
        elif change.operation is AlterOperation.SET:
            new[change.name] = change.value
        else:
            present = resolve(definition, resource.layers(new)).text
            new[change.name] = _edited_list(definition, present or "", change)
    return new


def _edited_list(definition: ConfigDefinition, present: str, change: ConfigChange) -> str:
    """A list with items appended or taken out; both start from the effective value, as in Kafka."""
    if definition.type is not ConfigType.LIST:
        raise ApiError(
            ErrorCode.INVALID_CONFIG, f"{change.name} is no list, so nothing can be appended or subtracted"
        )
    items = _items(present)
    edited = _items(change.value or "")
    if change.operation is AlterOperation.APPEND:
        items += [item for item in edited if item not in items]
    else:
        items = [item for item in items if item not in edited]
    return ",".join(items)


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]
