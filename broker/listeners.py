"""Listeners: the addresses that a broker listens on, and the ones that it tells clients to use.

Owns: the syntax of `listeners`, `advertised.listeners` and `listener.security.protocol.map`, and the checks across them. Opens
no socket. Source: Kafka's `EndPoint`, `KafkaConfig.validateValues`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from penstock.broker.config_table import shown
from penstock.broker.errors import ConfigError
from penstock.broker.keys import Endpoint

_ALL_ADDRESSES = frozenset({"", "0.0.0.0", "::"})
_SECURITY_PROTOCOLS = ("PLAINTEXT",)


@dataclass(frozen=True, slots=True)
class ListenerAddress:
    """`NAME://host:port`. An empty host means all addresses; port 0 takes a free one (or, advertised, the bound one)."""

    name: str
    host: str
    port: int


def parse_listeners(config_name: str, texts: Sequence[str]) -> tuple[ListenerAddress, ...]:
    """The listeners of a list config; names differ. Raises ConfigError."""
    listeners = tuple(_parse_listener(config_name, text) for text in texts)
    if len({listener.name for listener in listeners}) < len(listeners):
        raise ConfigError(f"{config_name}: a listener name is given twice")
    return listeners


def _parse_listener(config_name: str, text: str) -> ListenerAddress:
    name, separator, address = text.partition("://")
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    is_name = name.replace("_", "").replace("-", "").replace(".", "").isalnum() and name.isascii()
    is_port = port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) <= 65535
    is_host = bracketed or not any(c in host for c in ":/[] \t")
    if not (separator and colon and is_name and is_port and is_host):
        raise ConfigError(f"{config_name}: {shown(text)} is not of the form NAME://host:port")
    return ListenerAddress(name.upper(), host[1:-1] if bracketed else host, int(port))


def parse_address(config_name: str, text: str) -> ListenerAddress:
    """A `host:port` without a name. Raises ConfigError."""
    try:
        return _parse_listener(config_name, f"ADDRESS://{text}")
    except ConfigError:
        raise ConfigError(f"{config_name}: {shown(text)} is not of the form host:port") from None


def parse_protocol_map(texts: Sequence[str]) -> dict[str, str]:
    """Security protocol by listener name. Raises ConfigError."""
    protocols: dict[str, str] = {}
    for text in texts:
        name, separator, protocol = text.partition(":")
        if not separator or not name:
            raise ConfigError(
                f"listener.security.protocol.map: {shown(text)} is not of the form NAME:PROTOCOL"
            )
        protocols[name.upper()] = protocol.upper()
    return protocols


def security_protocol(name: str, protocols: Mapping[str, str]) -> str:
    """A listener's protocol: as mapped, or the one it is named after. Raises ConfigError for one we can't speak."""
    protocol = protocols.get(name, name)
    if protocol not in _SECURITY_PROTOCOLS:
        known = ", ".join(_SECURITY_PROTOCOLS)
        raise ConfigError(
            f"listener.security.protocol.map: listener {name} has protocol {protocol}; this version speaks {known} only"
        )
    return protocol


def check_advertised(
    listeners: Sequence[ListenerAddress], advertised: Sequence[ListenerAddress], inter_broker_name: str
) -> None:
    """Check that clients can be told a usable address for each listener. Raises ConfigError."""
    if not listeners:
        raise ConfigError("listeners: at least one is needed")
    names = {listener.name for listener in listeners}
    for listener in advertised:
        if listener.name not in names:
            raise ConfigError(f"advertised.listeners: {listener.name} is not among the listeners")
        if listener.host in _ALL_ADDRESSES:
            raise ConfigError(f"advertised.listeners: {listener.name} needs the host that clients connect to")
    told = {listener.name for listener in advertised}
    for listener in listeners:
        if listener.host in _ALL_ADDRESSES and listener.name not in told:
            raise ConfigError(
                f"listeners: {listener.name} listens on all addresses, so advertised.listeners must name its host"
            )
    if inter_broker_name not in names:
        raise ConfigError(f"inter.broker.listener.name: {inter_broker_name} is not among the listeners")


def advertised_endpoints(
    listeners: Sequence[ListenerAddress],
    advertised: Sequence[ListenerAddress],
    protocols: Mapping[str, str],
    bound_ports: Mapping[str, int],
) -> dict[str, Endpoint]:
    """What to register, by listener name. `bound_ports` are the real ports, which stand in wherever a port is 0."""
    told = {listener.name: listener for listener in advertised}
    endpoints: dict[str, Endpoint] = {}
    for listener in listeners:
        address = told.get(listener.name, listener)
        port = address.port or bound_ports[listener.name]
        endpoints[listener.name] = Endpoint(address.host, port, security_protocol(listener.name, protocols))
    return endpoints
