"""How a config is described, parsed, looked up and explained: the machinery behind both config tables.

Owns: the form of a definition, the parsing of its text, and the order in which layers are asked (topic, broker, all brokers,
start-up settings, default), with what DescribeConfigs tells of it. Knows no single config: those stand as dataclass fields in
`broker/topic_config.py` and `broker/broker_config.py`, made by `option`. Source: Kafka's `ConfigDef`, `LogConfig`, KIP-226, KIP-569.

Invariant: a value travels as text, exactly as somebody gave it, and is parsed by the one definition of its name.
"""

import dataclasses
import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from penstock.broker.errors import ConfigError

T = TypeVar("T")

Value = bool | int | float | str | tuple[str, ...] | None

_SHOWN_LENGTH_MAX = 80


class ConfigType(enum.IntEnum):
    """The numbers of DescribeConfigs."""

    BOOLEAN = 1
    STRING = 2
    INT = 3
    SHORT = 4
    LONG = 5
    DOUBLE = 6
    LIST = 7
    CLASS = 8
    PASSWORD = 9


class ConfigSource(enum.IntEnum):
    """Where an effective value comes from; the numbers of DescribeConfigs."""

    UNKNOWN = 0
    DYNAMIC_TOPIC = 1
    DYNAMIC_BROKER = 2
    DYNAMIC_DEFAULT_BROKER = 3
    STATIC_BROKER = 4
    DEFAULT = 5


INT64_MAX = 2**63 - 1
_INTEGER_BOUNDS = {
    ConfigType.SHORT: (-(2**15), 2**15 - 1),
    ConfigType.INT: (-(2**31), 2**31 - 1),
    ConfigType.LONG: (-(2**63), INT64_MAX),
}


@dataclass(frozen=True, slots=True)
class Synonym:
    """A broker-level name of the same setting; its number times `factor` is the setting's own (hours to milliseconds)."""

    name: str
    factor: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigDefinition:
    """One config: a row of the tables in `docs/configuration.md`."""

    name: str
    type: ConfigType
    default: str | None
    doc: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    synonyms: tuple[Synonym, ...] = ()
    """Broker-level names, the one that wins first; for a broker config its own name is among them."""
    check: Callable[[Value], str | None] | None = None
    """Says what is wrong with a parsed value, beyond type, bounds and choices."""
    dynamic: bool = True
    """Whether it may be changed while the broker runs; else DescribeConfigs says read-only."""
    acted_on: bool = True
    """Whether this version does what the config says; else it is only stored and shown."""
    own: bool = False
    """Whether it is Penstock's, unknown to Kafka."""

    @property
    def is_sensitive(self) -> bool:
        """Whether the value is never shown."""
        return self.type is ConfigType.PASSWORD


@dataclass(frozen=True, slots=True)
class Setting:
    """A value where it was set."""

    name: str
    text: str | None
    source: ConfigSource


@dataclass(frozen=True, slots=True)
class EffectiveConfig:
    """What holds for one config, and every setting that could have decided it, the deciding one first."""

    definition: ConfigDefinition
    text: str | None
    source: ConfigSource
    settings: tuple[Setting, ...]


@dataclass(frozen=True, slots=True)
class ConfigLayers:
    """Who may have set a config, from the strongest to the weakest; each maps names to text."""

    topic: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    broker: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    all_brokers: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    static: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])


def option(
    name: str,
    default: T,
    doc: str,
    *,
    type: ConfigType | None = None,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    synonyms: Sequence[str | Synonym] = (),
    check: Callable[[Any], str | None] | None = None,
    dynamic: bool = True,
    acted_on: bool = True,
    own: bool = False,
) -> T:
    """A dataclass field that is a config: its default and its definition in one place."""
    definition = ConfigDefinition(
        name=name,
        type=type or _type_of(default),
        default=text_of(cast(Value, default)),
        doc=doc,
        low=low,
        high=high,
        choices=choices,
        synonyms=tuple(s if isinstance(s, Synonym) else Synonym(s) for s in synonyms),
        check=check,
        dynamic=dynamic,
        acted_on=acted_on,
        own=own,
    )
    return dataclasses.field(default=default, metadata={"definition": definition})


def fixed_option(
    name: str,
    default: T,
    doc: str,
    *,
    type: ConfigType | None = None,
    low: float | None = None,
    high: float | None = None,
    aliases: tuple[str, ...] = (),
    check: Callable[[Any], str | None] | None = None,
    own: bool = False,
) -> T:
    """A config that is read at start only."""
    names = (name, *aliases)
    return option(
        name, default, doc, type=type, low=low, high=high, synonyms=names, check=check, dynamic=False, own=own
    )


def definitions_by_field(config_class: type) -> dict[str, ConfigDefinition]:
    """The definitions in a dataclass made of `option` fields, by field name; other fields are left out."""
    return {
        field.name: field.metadata["definition"]
        for field in dataclasses.fields(config_class)
        if "definition" in field.metadata
    }


def _type_of(default: object) -> ConfigType:
    match default:
        case bool():
            return ConfigType.BOOLEAN
        case int():
            return ConfigType.LONG
        case float():
            return ConfigType.DOUBLE
        case tuple():
            return ConfigType.LIST
        case _:
            return ConfigType.STRING


def text_of(value: Value) -> str | None:
    """A value as the text that parses to it."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value)


def parse(definition: ConfigDefinition, text: str) -> Value:
    """The value that `text` stands for. Raises ConfigError, one line that names the config."""
    value = _parse_type(definition, text)
    fault = _fault(definition, value)
    if fault is not None:
        raise ConfigError(f"{definition.name}: {shown(text)} {fault}")
    return value


def _parse_type(definition: ConfigDefinition, text: str) -> Value:
    stripped = text.strip()
    match definition.type:
        case ConfigType.BOOLEAN:
            if stripped.lower() not in ("true", "false"):
                raise ConfigError(f"{definition.name}: {shown(text)} is neither true nor false")
            return stripped.lower() == "true"
        case ConfigType.INT | ConfigType.SHORT | ConfigType.LONG:
            return _parse_integer(definition.name, text)
        case ConfigType.DOUBLE:
            try:
                return float(stripped)
            except ValueError:
                raise ConfigError(f"{definition.name}: {shown(text)} is no number") from None
        case ConfigType.LIST:
            return tuple(part.strip() for part in stripped.split(",") if part.strip())
        case _:
            return stripped


def _parse_integer(name: str, text: str) -> int:
    stripped = text.strip()
    digits = stripped[1:] if stripped[:1] in ("-", "+") else stripped
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 20):
        raise ConfigError(f"{name}: {shown(text)} is no integer")
    return int(stripped)


def _fault(definition: ConfigDefinition, value: Value) -> str | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = _INTEGER_BOUNDS.get(definition.type, (float("-inf"), float("inf")))
        low = low if definition.low is None else definition.low
        high = high if definition.high is None else definition.high
        if not low <= value <= high:
            return f"is not between {low} and {high}"
    elif definition.choices:
        given = value if isinstance(value, tuple) else (value,)
        wrong = [item for item in given if item not in definition.choices]
        if wrong or not given:
            return f"is none of {', '.join(definition.choices)}"
        if len(set(given)) < len(given):
            return "names a value twice"
    return definition.check(value) if definition.check else None


def shown(text: str) -> str:
    """A value for a message: quoted, one line, cut."""
    return repr(text if len(text) <= _SHOWN_LENGTH_MAX else text[:_SHOWN_LENGTH_MAX] + "…")


def resolve(definition: ConfigDefinition, layers: ConfigLayers) -> EffectiveConfig:
    """What holds for one config. A stored value that does not parse counts as not set."""
    settings: list[Setting] = []
    winner: str | None = None
    for setting, factor in _candidates(definition, layers):
        text = _converted(definition, setting, factor)
        if text is None:
            continue
        winner = text if not settings else winner
        settings.append(setting)
    default_name = definition.synonyms[0].name if definition.synonyms else definition.name
    settings.append(Setting(default_name, definition.default, ConfigSource.DEFAULT))
    text = winner if len(settings) > 1 else definition.default
    return EffectiveConfig(definition, text, settings[0].source, tuple(settings))


def _candidates(definition: ConfigDefinition, layers: ConfigLayers) -> Iterable[tuple[Setting, int]]:
    text = layers.topic.get(definition.name)
    if text is not None:
        yield Setting(definition.name, text, ConfigSource.DYNAMIC_TOPIC), 1
    broker_layers = (
        (ConfigSource.DYNAMIC_BROKER, layers.broker),
        (ConfigSource.DYNAMIC_DEFAULT_BROKER, layers.all_brokers),
        (ConfigSource.STATIC_BROKER, layers.static),
    )
    for source, values in broker_layers:
        for synonym in definition.synonyms:
            text = values.get(synonym.name)
            if text is not None:
                yield Setting(synonym.name, text, source), synonym.factor


def _converted(definition: ConfigDefinition, setting: Setting, factor: int) -> str | None:
    assert setting.text is not None
    try:
        text = convert(setting.name, setting.text, factor)
        parse(definition, text)
    except ConfigError:
        return None
    return text


def convert(name: str, text: str, factor: int) -> str:
    """The text in the unit of the setting itself; a negative number means "no bound" in every unit. Raises ConfigError."""
    if factor == 1:
        return text
    number = _parse_integer(name, text)
    return str(number * factor if number >= 0 else -1)


def values_of(config_class: type, layers: ConfigLayers) -> dict[str, Any]:
    """The parsed effective values of every option of a dataclass, by field name, as its constructor takes them."""
    values: dict[str, Any] = {}
    for field_name, definition in definitions_by_field(config_class).items():
        text = resolve(definition, layers).text
        values[field_name] = None if text is None else parse(definition, text)
    return values
