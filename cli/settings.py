"""Where a broker's settings come from: flags, environment, file, and which of them wins.

Owns the names of environment variables, the reading of the TOML file and the order flag > environment > file. Knows no config by name:
the table in `broker/broker_config.py` says which there are.

Invariant: two names of one setting (`log.dir` and `log.dirs`, hours and milliseconds of one retention) count as the same, so that the
stronger source wins whichever name it uses.
"""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from penstock.broker.broker_config import BrokerConfig, broker_config_definitions
from penstock.broker.errors import ConfigError
from penstock.errors import PenstockError
from penstock.runtime.files import FileSystem, StorageError, read_file

ENVIRONMENT_PREFIX = "PENSTOCK_"

# Not settings: what this project's own tools read, and what Kubernetes sets in every container beside a service named "penstock".
_NO_SETTING = re.compile(
    "PENSTOCK_(BOOTSTRAP|CONFIG|LOG_LEVEL|CI|PEERS|TEST_.*|SERVICE_(HOST|PORT.*)|PORT(_.*)?)"
)


class SettingsError(PenstockError):
    """A setting is unknown or wrong, or the file can't be read. One line that says where it was set."""


@dataclass(frozen=True, slots=True)
class Layer:
    """Settings from one source: text by config name, and for each name where exactly it stands."""

    settings: Mapping[str, str]
    origins: Mapping[str, str]


def from_flags(given: Sequence[tuple[str, str, str]]) -> Layer:
    """The layer of (flag, config name, value) triples. Raises SettingsError where two flags set one config."""
    settings: dict[str, str] = {}
    origins: dict[str, str] = {}
    for flag, name, value in given:
        if name in settings:
            flags = " and ".join(dict.fromkeys((origins[name], flag)))
            raise SettingsError(f"{name} is set twice, by {flags}")
        settings[name], origins[name] = value, flag
    return Layer(settings, origins)


def from_environment(variables: Mapping[str, str]) -> Layer:
    """The layer of PENSTOCK_… variables: PENSTOCK_LOG_RETENTION_MS is log.retention.ms. Raises SettingsError for unknown ones."""
    settings: dict[str, str] = {}
    origins: dict[str, str] = {}
    for variable in sorted(variables):
        if not variable.startswith(ENVIRONMENT_PREFIX) or _NO_SETTING.fullmatch(variable):
            continue
        name = _names_by_variable().get(variable)
        if name is None:
            guess = variable.removeprefix(ENVIRONMENT_PREFIX).lower().replace("_", ".")
            raise SettingsError(f"environment variable {variable}: there is no config {guess!r}")
        settings[name], origins[name] = variables[variable], f"environment variable {variable}"
    return Layer(settings, origins)


def from_file(files: FileSystem, path: str) -> Layer:
    """The layer of a TOML file. Tables are parts of names: `retention.ms` in `[log]` is log.retention.ms. Raises SettingsError."""
    import tomllib  # loaded where there is a file

    try:
        document = tomllib.loads(read_file(files, path).decode())
    except (FileNotFoundError, StorageError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise SettingsError(f"{path}: {reason}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: this is not TOML: {error}") from error
    settings: dict[str, str] = {}
    for name, value in _flattened(document, ""):
        if name in settings:
            raise SettingsError(f"{path}: {name} is set twice")
        settings[name] = _text_of(path, name, value)
    return Layer(settings, dict.fromkeys(settings, path))


def load_config(layers: Sequence[Layer]) -> BrokerConfig:
    """One config out of the layers, the strongest first. Raises SettingsError."""
    merged: dict[str, str] = {}
    decided: set[str] = set()
    for layer in layers:
        merged |= {name: text for name, text in layer.settings.items() if _setting_of(name) not in decided}
        decided |= {_setting_of(name) for name in layer.settings}
    try:
        return BrokerConfig.from_properties(merged)
    except ConfigError as error:
        raise SettingsError(f"{_origin_of(error, merged, layers)}{error}") from error


def _origin_of(error: ConfigError, merged: Mapping[str, str], layers: Sequence[Layer]) -> str:
    """Which layer is to blame, if it is one setting alone that is wrong."""
    for name, text in merged.items():
        try:
            BrokerConfig.from_properties({name: text})
        except ConfigError as alone:
            if str(alone) == str(error):
                return next(f"{layer.origins[name]}: " for layer in layers if name in layer.settings)
    return ""


def _flattened(table: Mapping[str, object], prefix: str) -> Iterator[tuple[str, object]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flattened(cast(dict[str, object], value), f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _text_of(path: str, name: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ",".join(_text_of(path, name, part) for part in cast(list[object], value))
    if isinstance(value, str | int | float):
        return str(value)
    raise SettingsError(f"{path}: {name} is neither text, number, true, false nor a list of those")


@functools.cache
def _settings_by_name() -> Mapping[str, str]:
    """Every name of every config, with the name that its group of synonyms goes by."""
    table = broker_config_definitions()
    groups = {name: name for name in table}
    for name, definition in table.items():
        if len(definition.synonyms) > 1:
            groups |= {synonym.name: name for synonym in definition.synonyms}
    return groups


def _setting_of(name: str) -> str:
    return _settings_by_name().get(name, name)


@functools.cache
def _names_by_variable() -> Mapping[str, str]:
    return {ENVIRONMENT_PREFIX + name.upper().replace(".", "_"): name for name in _settings_by_name()}


__all__ = ["Layer", "SettingsError", "from_environment", "from_file", "from_flags", "load_config"]
