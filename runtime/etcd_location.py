"""Where an etcd cluster is, and as whom to go there: `etcd://[user[:password]@]host[:port],…[/prefix][?option=value&…]`.

Owns the form of that text, and that no password is in what is shown of it. Reads no file. `etcds://` is with TLS. Options, which the
configs `metadata.etcd.*` become: `ca`, `certificate`, `key` (paths of PEM files), `password_file`. Reserved characters in the user, the
password, the prefix and the options are percent-encoded.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from penstock.runtime.metadata import MetadataError

SCHEMES = frozenset({"etcd", "etcds"})
DEFAULT_PORT = 2379
_OPTIONS = ("ca", "certificate", "key", "password_file")


@dataclass(frozen=True, slots=True)
class EtcdLocation:
    """A location, taken apart. Its `str` and `repr` have no password in them."""

    addresses: tuple[str, ...]
    """`host:port`, in the order given; an IPv6 address in brackets."""
    is_tls: bool = False
    prefix: str = ""
    """What stands before every key: empty, or `/…` without a slash at the end."""
    user: str = ""
    password: str = field(default="", repr=False)
    ca: str = ""
    certificate: str = ""
    key: str = ""
    password_file: str = ""

    @property
    def urls(self) -> tuple[str, ...]:
        """The base URL of each member."""
        return tuple(f"http{'s' if self.is_tls else ''}://{address}" for address in self.addresses)

    def __str__(self) -> str:
        who = f"{quote(self.user, safe='')}@" if self.user else ""
        return f"etcd{'s' if self.is_tls else ''}://{who}{','.join(self.addresses)}{self.prefix}"


def is_etcd(location: str) -> bool:
    """Whether a metadata location is one of etcd."""
    return location.partition("://")[0] in SCHEMES and "://" in location


def parse_location(text: str) -> EtcdLocation:
    """Take a location apart. Raises MetadataError with one line that shows no password."""
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in SCHEMES:
        raise MetadataError("an etcd location begins with etcd:// or etcds://")
    # By hand: urlsplit knows no list of hosts.
    end = min((at for mark in "/?" if (at := rest.find(mark)) >= 0), default=len(rest))
    tail = urlsplit(rest[end:])
    who, at_sign, hosts = rest[:end].rpartition("@")
    if not at_sign and "@" in tail.path:
        raise MetadataError("user and password in an etcd location need / ? # @ : and % as %2F and so on")
    user, _, password = who.partition(":")
    location = EtcdLocation(
        addresses=tuple(_address(host) for host in hosts.split(",")),
        is_tls=scheme == "etcds",
        prefix=unquote(tail.path).rstrip("/"),
        user=unquote(user),
        password=unquote(password),
    )
    return _with_options(location, _options(tail.query))


def with_options(text: str, options: Mapping[str, str]) -> str:
    """The location with further options, those that are not empty; what the text says itself stays. Shows the password: for no log line."""
    present = dict(parse_qsl(urlsplit(text).query))
    added = [(name, value) for name, value in options.items() if value and name not in present]
    if not added:
        return text
    mark = "&" if present else "?"
    return text + mark + "&".join(f"{name}={quote(value, safe='/')}" for name, value in added)


def _address(text: str) -> str:
    host, separator, port = text.rpartition(":")
    if not separator or text.endswith("]"):
        host, port = text, str(DEFAULT_PORT)
    if not host or (":" in host and not host.startswith("[")):
        raise MetadataError(f"an etcd location names hosts as host:port, separated by commas, not {text!r}")
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise MetadataError(f"{text!r} in the etcd location: no such port")
    return f"{host}:{port}"


def _options(query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name in options:
        if name not in _OPTIONS:
            raise MetadataError(f"an etcd location has no option {name!r}; there are: {', '.join(_OPTIONS)}")
    return options


def _with_options(location: EtcdLocation, options: Mapping[str, str]) -> EtcdLocation:
    found = replace(
        location,
        ca=options.get("ca", ""),
        certificate=options.get("certificate", ""),
        key=options.get("key", ""),
        password_file=options.get("password_file", ""),
    )
    if not found.is_tls and (found.ca or found.certificate or found.key):
        raise MetadataError("certificates are for etcds:// (with TLS), and the location says etcd://")
    if found.key and not found.certificate:
        raise MetadataError("the etcd client's key needs its certificate, too")
    if (found.password or found.password_file) and not found.user:
        raise MetadataError("the etcd location has a password and no user")
    return found


__all__ = ["DEFAULT_PORT", "SCHEMES", "EtcdLocation", "is_etcd", "parse_location", "with_options"]
