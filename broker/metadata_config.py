"""The broker configs of the metadata store.

Owns: their rows in the one table of broker configs (`BrokerConfig` has these fields, too), and that a password for etcd is in none that
is ever shown. Knows the form of a location from `runtime.etcd_location` only, and loads that for etcd only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from penstock.broker.config_table import ConfigType, fixed_option
from penstock.broker.controller_config import ControllerConfig
from penstock.broker.errors import ConfigError
from penstock.runtime.metadata import MetadataError

STORE = "metadata.store"
PASSWORD = "metadata.etcd.password"
_ETCD = ("etcd://", "etcds://")


@dataclass(frozen=True, slots=True)
class MetadataConfig(ControllerConfig):
    """Where the metadata is, and how to get at it."""

    metadata_store: str = fixed_option(
        STORE,
        "",
        "Where the cluster's metadata is kept: etcd://host:port,… (etcds:// with TLS; user@ before the hosts, /prefix after them), "
        "or a file path (SQLite, for a broker alone); empty is metadata.db in the data directory.",
        own=True,
    )
    metadata_etcd_password: str = fixed_option(
        PASSWORD,
        "",
        "The password of the user in metadata.store. Better in metadata.etcd.password.file or in the environment than on a command line.",
        type=ConfigType.PASSWORD,
        own=True,
    )
    metadata_etcd_password_file: str = fixed_option(
        "metadata.etcd.password.file",
        "",
        "A file with that password, and nothing else but perhaps a line end.",
        own=True,
    )
    metadata_etcd_ca: str = fixed_option(
        "metadata.etcd.ca",
        "",
        "A PEM file with the certificates that etcds:// trusts; empty trusts those that the system does.",
        own=True,
    )
    metadata_etcd_certificate: str = fixed_option(
        "metadata.etcd.certificate",
        "",
        "A PEM file with this broker's certificate for etcd.",
        own=True,
    )
    metadata_etcd_key: str = fixed_option(
        "metadata.etcd.key",
        "",
        "A PEM file with the key of that certificate; empty takes it from the certificate's file.",
        own=True,
    )

    @property
    def is_clustered(self) -> bool:
        """Whether several brokers may share the metadata store: it is a service (`etcd://…`), no file."""
        return self.metadata_store.startswith(_ETCD)

    def check_metadata(self) -> None:
        """Check the location. Raises ConfigError, with no password in it."""
        given = {
            "metadata.etcd.password.file": self.metadata_etcd_password_file,
            "metadata.etcd.ca": self.metadata_etcd_ca,
            "metadata.etcd.certificate": self.metadata_etcd_certificate,
            "metadata.etcd.key": self.metadata_etcd_key,
            PASSWORD: self.metadata_etcd_password,
        }
        if self.is_clustered:
            self.etcd_location()
        elif any(given.values()):
            names = ", ".join(name for name, value in given.items() if value)
            raise ConfigError(f"{names}: this is for etcd, and {STORE} is not etcd://… or etcds://…")

    def etcd_location(self) -> str:
        """The location with all that the other configs add to it, the password, too: for `open_metadata`, and for no log line."""
        from penstock.runtime.etcd_location import parse_location

        try:
            stated = parse_location(self.metadata_store)
            location = replace(
                stated,
                password=self.metadata_etcd_password or stated.password,
                password_file=self.metadata_etcd_password_file or stated.password_file,
                ca=self.metadata_etcd_ca or stated.ca,
                certificate=self.metadata_etcd_certificate or stated.certificate,
                key=self.metadata_etcd_key or stated.key,
            )
            location.check()
        except MetadataError as error:
            raise ConfigError(f"{STORE}: {error}") from error
        return location.full_text()


def with_password_apart(properties: Mapping[str, str]) -> Mapping[str, str]:
    """The properties with a password in metadata.store moved to the config that is never shown. Raises ConfigError."""
    store = properties.get(STORE, "")
    if not store.startswith(_ETCD):
        return properties
    from penstock.runtime.etcd_location import parse_location

    try:
        location = parse_location(store)
    except MetadataError as error:
        raise ConfigError(f"{STORE}: {error}") from error
    if not location.password:
        return properties
    if properties.get(PASSWORD):
        raise ConfigError(f"{STORE} has a password, and so has {PASSWORD}")
    return {**properties, STORE: replace(location, password="").full_text(), PASSWORD: location.password}
