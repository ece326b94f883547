"""Locations of etcd: what each form means, what is refused, and that no password is shown."""

from dataclasses import replace

import pytest

from penstock.runtime.etcd_location import EtcdLocation, is_etcd, parse_location
from penstock.runtime.metadata import MetadataError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("etcd://one", EtcdLocation(("one:2379",))),
        ("etcd://one:1234,two", EtcdLocation(("one:1234", "two:2379"))),
        ("etcd://10.0.0.1:1/", EtcdLocation(("10.0.0.1:1",))),
        ("etcd://[::1]:1,[fe80::2]", EtcdLocation(("[::1]:1", "[fe80::2]:2379"))),
        ("etcds://one/prod/eu/", EtcdLocation(("one:2379",), is_tls=True, prefix="/prod/eu")),
        ("etcd://me@one", EtcdLocation(("one:2379",), user="me")),
        (
            "etcd://me:a%2Fb%40c%3A@one,two/p",
            EtcdLocation(("one:2379", "two:2379"), False, "/p", "me", "a/b@c:"),
        ),
        ("etcd://me:a@b:c@one", EtcdLocation(("one:2379",), user="me", password="a@b:c")),
        (
            "etcds://me@one/p?ca=/a.pem&certificate=/b%20c.pem&key=/k&password_file=/p",
            EtcdLocation(("one:2379",), True, "/p", "me", "", "/a.pem", "/b c.pem", "/k", "/p"),
        ),
        ("etcds://one?ca=/a@b.pem", EtcdLocation(("one:2379",), True, ca="/a@b.pem")),
    ],
)
def test_what_a_location_means_and_that_its_text_means_the_same(text: str, expected: EtcdLocation) -> None:
    location = parse_location(text)
    assert location == expected
    assert parse_location(location.full_text()) == expected
    assert is_etcd(text)


@pytest.mark.parametrize(
    "text",
    [
        "http://one",
        "etcd:one",
        "etcd://",
        "etcd://one,",
        "etcd://one:port",
        "etcd://one:0",
        "etcd://one:65536",
        "etcd://::1",
        "etcd://one?nonsense=1",
        "etcd://one?ca=/a.pem",
        "etcds://one?key=/a.pem",
        "etcd://:s3cret@one",
        "etcd://one?password_file=/p",
        "etcd://me:s3cret/x@one",
        "etcd://me:s3cret@one:port",
    ],
)
def test_what_makes_no_sense_is_refused_without_showing_a_password(text: str) -> None:
    with pytest.raises(MetadataError) as caught:
        parse_location(text)
    assert "s3cret" not in str(caught.value)


def test_a_location_is_shown_without_its_password() -> None:
    location = parse_location("etcds://me:s3cret@one,two:1/prod?ca=/a.pem")
    assert str(location) == "etcds://me@one:2379,two:1/prod"
    assert "s3cret" not in repr(location)
    assert "s3cret" not in replace(location, password="").full_text()
    assert location.urls == ("https://one:2379", "https://two:1")


def test_a_path_is_no_etcd() -> None:
    assert not any(map(is_etcd, ("/var/etcd", "etcd", "etcd:/x", "sqlite://x")))
