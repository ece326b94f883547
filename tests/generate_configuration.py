"""Writes docs/configuration.md from the config tables: `python -m tests.generate_configuration`."""

from collections.abc import Callable, Iterable
from pathlib import Path

from penstock.broker.broker_config import broker_config_definitions
from penstock.broker.config_table import INT64_MAX, ConfigDefinition, ConfigType
from penstock.broker.topic_config import topic_config_definitions

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"

INTRODUCTION = """\
# Configuration

Written by `make generate` from `broker/topic_config.py` and `broker/broker_config.py`: do not edit.

The names, types and defaults are Kafka's. Rows marked **Penstock** are this broker's own; rows marked *stored only* can be set and are shown, as
clients' tools expect, but this version does not act on them yet.

A topic's config is looked up on the topic, then under its broker-level names among the dynamic configs of the broker, the dynamic configs of all
brokers, and what the broker was started with; then the default holds.
"""

TOPICS = """
## Topics

Set with `penstock topic create --config` and `penstock topic alter --config`, or any Kafka admin client.

"""

BROKERS = """
## Brokers

Given to `penstock serve`. A row marked *dynamic* can also be changed while the broker runs, by IncrementalAlterConfigs, for one broker or for all. The
broker-level defaults of topic configs have a table of their own.

"""

DEFAULTS = """
### Defaults of topic configs

"""


def page() -> str:
    """The whole page."""
    topics = topic_config_definitions().values()
    levels = {synonym.name for definition in topics for synonym in definition.synonyms}
    brokers = broker_config_definitions().values()
    own = [definition for definition in brokers if definition.name not in levels]
    defaults = [definition for definition in brokers if definition.name in levels]
    return "".join(
        [
            INTRODUCTION,
            TOPICS,
            _table(topics, "broker-level names", _synonyms),
            BROKERS,
            _table(own),
            DEFAULTS,
            _table(defaults, "", _dynamic),
        ]
    )


def _table(
    definitions: Iterable[ConfigDefinition],
    column: str = "",
    content: Callable[[ConfigDefinition], str] | None = None,
) -> str:
    """A table, with one more column where its content is given."""
    columns = (column,) if content else ()
    head = ("name", "type", "default", "values", *columns, "meaning")
    rows = [head, ("---",) * len(head)]
    for definition in sorted(definitions, key=_name):
        rows.append(
            (
                f"`{definition.name}`",
                definition.type.name.lower(),
                _default(definition),
                _values(definition),
                *((content(definition),) if content else ()),
                _meaning(definition),
            )
        )
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _name(definition: ConfigDefinition) -> str:
    return definition.name


def _default(definition: ConfigDefinition) -> str:
    if definition.default is None:
        return ""
    return f"`{definition.default}`" if definition.default else "empty"


def _values(definition: ConfigDefinition) -> str:
    if definition.choices:
        return ", ".join(f"`{choice}`" for choice in definition.choices)
    if definition.type not in (ConfigType.INT, ConfigType.LONG, ConfigType.SHORT, ConfigType.DOUBLE):
        return ""
    if definition.low is None or definition.low == -INT64_MAX - 1:
        return ""
    return f"{definition.low} and up" if definition.high is None else f"{definition.low} to {definition.high}"


def _dynamic(definition: ConfigDefinition) -> str:
    return "*dynamic*" if definition.dynamic else ""


def _synonyms(definition: ConfigDefinition) -> str:
    return ", ".join(f"`{synonym.name}`" for synonym in definition.synonyms)


def _meaning(definition: ConfigDefinition) -> str:
    marks = ("**Penstock.** " if definition.own else "") + ("" if definition.acted_on else "*Stored only.* ")
    return marks + definition.doc


if __name__ == "__main__":
    PAGE.write_text(page())
