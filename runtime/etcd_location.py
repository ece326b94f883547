"""Where an etcd cluster is, and as whom to go there: `etcd://[user[:password]@]host[:port],…[/prefix][?option=value&…]`.

Owns the form of that text, and that no password is in what is shown of it. Reads no file. `etcds://` is with TLS. Options, which the
configs `metadata.etcd.*` become: `ca`, `certificate`, `key` (paths of PEM files), `password_file`. Reserved characters in the user, the
password, the prefix and the options are percent-encoded.
"""

from dataclasses import dataclass, field
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

    @property
    def lacks_certificate(self) -> bool:
        """Whether the server is not shown who asks, and could be."""
        return self.is_tls and not self.certificate

    def __str__(self) -> str:
        who = f"{quote(self.user, safe='')}@" if self.user else ""
        return f"{self._scheme}://{who}{self._where}"

    def full_text(self) -> str:
        """The location as `parse_location` takes it, with the password if there is one: for no log line."""
        password = f":{quote(self.password, safe='')}" if self.password else ""
        who = f"{quote(self.user, safe='')}{password}@" if self.user else ""
        options = [(name, value) for name in _OPTIONS if (value := getattr(self, name))]
        query = "&".join(f"{name}={quote(value, safe='/')}" for name, value in options)
        return f"{self._scheme}://{who}{self._where}{'?' if query else ''}{query}"

    @property
    def _scheme(self) -> str:
        return "etcds" if self.is_tls else "etcd"

    @property
    def _where(self) -> str:
        return ",".join(self.addresses) + quote(self.prefix, safe="/")

    def check(self) -> None:
        """Raise MetadataError where the parts do not go together."""
        if not self.is_tls and (self.ca or self.certificate or self.key):
            raise MetadataError("certificates are for etcds:// (with TLS), and the location says etcd://")
        if self.key and not self.certificate:
            raise MetadataError("the key for etcd needs its certificate, too")
        if (self.password or self.password_file) and not self.user:
            raise MetadataError(
                "there is a password for etcd and no user: it goes before the host, as etcd://user@host"
            )


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
    options = _options(tail.query)
    location = EtcdLocation(
        addresses=tuple(_address(host) for host in hosts.split(",")),
        is_tls=scheme == "etcds",
        prefix=unquote(tail.path).rstrip("/"),
        user=unquote(user),
        password=unquote(password),
        ca=options.get("ca", ""),
        certificate=options.get("certificate", ""),
        key=options.get("key", ""),
        password_file=options.get("password_file", ""),
    )
    location.check()
    return location


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


__all__ = ["DEFAULT_PORT", "SCHEMES", "EtcdLocation", "is_etcd", "parse_location"]
