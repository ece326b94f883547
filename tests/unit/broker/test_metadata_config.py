"""The configs of the metadata store: what they add up to, and that a password is in nothing that is shown."""

import pytest

from penstock.broker.broker_config import BrokerConfig, effective_broker_configs
from penstock.broker.config_table import ConfigLayers
from penstock.broker.errors import ConfigError


def test_a_broker_alone_keeps_its_metadata_in_its_folder() -> None:
    config = BrokerConfig.from_properties({"log.dirs": "/data"})
    assert config.metadata_location == "/data/metadata.db"
    assert not config.is_clustered
    assert not BrokerConfig.from_properties({"metadata.store": "/else/where.db"}).is_clustered


def test_the_configs_add_up_to_one_location() -> None:
    config = BrokerConfig.from_properties(
        {
            "metadata.store": "etcds://me@one,two:1/prod",
            "metadata.etcd.password.file": "/run/password",
            "metadata.etcd.ca": "/etc/ca.pem",
            "metadata.etcd.certificate": "/etc/my certificate.pem",
            "metadata.etcd.key": "/etc/key.pem",
        }
    )
    assert config.is_clustered
    assert config.metadata_location == (
        "etcds://me@one:2379,two:1/prod?ca=/etc/ca.pem&certificate=/etc/my%20certificate.pem&key=/etc/key.pem"
        "&password_file=/run/password"
    )


@pytest.mark.parametrize(
    "properties",
    [
        {"metadata.store": "etcd://me:s3cret@one/p"},
        {"metadata.store": "etcd://me@one/p", "metadata.etcd.password": "s3cret"},
    ],
)
def test_a_password_reaches_the_store_and_no_description(properties: dict[str, str]) -> None:
    config = BrokerConfig.from_properties(properties)
    assert config.metadata_location == "etcd://me:s3cret@one:2379/p"
    described = effective_broker_configs(ConfigLayers(static=config.static))
    shown = [
        text
        for one in described
        if not one.definition.is_sensitive
        for text in (one.text, *(setting.text for setting in one.settings))
    ]
    assert "etcd://me@one:2379/p" in shown or "etcd://me@one/p" in shown
    assert not any("s3cret" in text for text in shown if text)


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({"metadata.store": "etcd://me:s3cret@one:port"}, "no such port"),
        ({"metadata.store": "etcd://me:s3cret/@one"}, "%2F"),
        ({"metadata.store": "etcd://one", "metadata.etcd.password": "s3cret"}, "no user"),
        ({"metadata.store": "etcd://me:s3cret@one", "metadata.etcd.password": "s3cret"}, "has a password"),
        ({"metadata.store": "etcd://one", "metadata.etcd.ca": "/ca.pem"}, "etcds://"),
        ({"metadata.store": "etcds://one", "metadata.etcd.key": "/key.pem"}, "certificate"),
        ({"metadata.etcd.password": "s3cret"}, "metadata.etcd.password: this is for etcd"),
        ({"metadata.etcd.ca": "/ca.pem", "metadata.store": "/x.db"}, "metadata.etcd.ca: this is for etcd"),
    ],
)
def test_what_does_not_go_together_is_one_line_without_the_password(
    properties: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        BrokerConfig.from_properties(properties)
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)
