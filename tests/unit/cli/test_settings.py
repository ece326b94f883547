import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from penstock.cli.settings import (
    Layer,
    SettingsError,
    from_environment,
    from_file,
    from_flags,
    load_config,
)
from penstock.runtime.posix_files import PosixFileSystem


def layer(**settings: str) -> Layer:
    named = {name.replace("_", "."): text for name, text in settings.items()}
    return Layer(named, dict.fromkeys(named, "somewhere"))


def file_layer(tmp_path: Path, text: str) -> Layer:
    path = tmp_path / "penstock.toml"
    path.write_text(text)
    return from_file(PosixFileSystem(), str(path))


def test_flags_win_over_the_environment_and_that_over_the_file() -> None:
    config = load_config(
        [
            layer(node_id="7"),
            layer(node_id="8", num_partitions="3"),
            layer(num_partitions="4", broker_rack="r"),
        ]
    )
    assert (config.node_id, config.num_partitions, config.rack) == (7, 3, "r")


@pytest.mark.parametrize(
    ("strong", "weak", "effective"),
    [
        ({"log.dir": "strong"}, {"log.dirs": "weak"}, {"log.dir": "strong"}),
        ({"broker.id": "5"}, {"node.id": "6"}, {"broker.id": "5"}),
        (
            {"log.retention.hours": "1"},
            {"log.retention.ms": "5", "log.retention.minutes": "6", "log.roll.ms": "7"},
            {"log.retention.hours": "1", "log.roll.ms": "7"},
        ),
    ],
)
def test_the_stronger_source_wins_also_under_another_name_of_the_setting(
    strong: Mapping[str, str], weak: Mapping[str, str], effective: Mapping[str, str]
) -> None:
    origins = dict.fromkeys([*strong, *weak], "somewhere")
    config = load_config([Layer(strong, origins), Layer(weak, origins)])
    assert config.static == effective


def test_two_names_in_one_source_are_left_to_kafkas_own_order() -> None:
    config = load_config([layer(log_retention_ms="5", log_retention_hours="1")])
    assert config.static == {"log.retention.ms": "5", "log.retention.hours": "1"}


def test_a_variable_is_the_configs_name_in_capitals() -> None:
    found = from_environment(
        {"PENSTOCK_LOG_RETENTION_MS": "5", "PENSTOCK_WRITE_CACHING": "true", "PATH": "/bin", "KAFKA_X": "1"}
    )
    assert found.settings == {"log.retention.ms": "5", "write.caching": "true"}


def test_a_misspelt_variable_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"PENSTOCK_LOG_DRIS: there is no config 'log\.dris'"):
        from_environment({"PENSTOCK_LOG_DRIS": "/data"})


@pytest.mark.parametrize(
    "variable",
    [
        "PENSTOCK_SERVICE_HOST",
        "PENSTOCK_SERVICE_PORT_KAFKA",
        "PENSTOCK_PORT",
        "PENSTOCK_PORT_9092_TCP_ADDR",
        "PENSTOCK_BOOTSTRAP",
        "PENSTOCK_CONFIG",
        "PENSTOCK_LOG_LEVEL",
        "PENSTOCK_CI",
        "PENSTOCK_TEST_PEER",
    ],
)
def test_a_variable_of_kubernetes_or_of_our_tools_is_no_setting(variable: str) -> None:
    assert from_environment({variable: "x"}).settings == {}


def test_tables_of_the_file_are_parts_of_names(tmp_path: Path) -> None:
    found = file_layer(
        tmp_path,
        """
        "node.id" = 3
        listeners = ["A://localhost:1", "B://localhost:2"]
        auto.create.topics.enable = false
        [log]
        dirs = "/data"
        retention.ms = 5
        """,
    )
    assert found.settings == {
        "node.id": "3",
        "listeners": "A://localhost:1,B://localhost:2",
        "auto.create.topics.enable": "false",
        "log.dirs": "/data",
        "log.retention.ms": "5",
    }


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("log.dirs = ", "this is not TOML"),
        ("log.dirs = 2026-11-23", "log.dirs is neither text, number"),
        ('"log.dirs" = "a"\nlog.dirs = "b"', "log.dirs is set twice"),
    ],
)
def test_a_wrong_file_is_told_by_its_path(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(SettingsError) as caught:
        file_layer(tmp_path, text)
    assert str(tmp_path / "penstock.toml") in str(caught.value)
    assert complaint in str(caught.value)


def test_a_file_that_is_not_utf_8_or_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b'a = "\xe9"')
    files = PosixFileSystem()
    for name, complaint in [("latin", "not TOML"), ("missing", "no such file"), (".", "directory")]:
        with pytest.raises(SettingsError, match=complaint):
            from_file(files, str(tmp_path / name))


def test_two_flags_for_one_config_are_refused() -> None:
    given = [("--data-dir", "log.dirs", "a"), ("--set", "log.dirs", "b")]
    with pytest.raises(SettingsError, match=r"log\.dirs is set twice, by --data-dir and --set"):
        from_flags(given)


def test_an_unknown_config_is_refused_with_where_it_stands_and_a_guess(tmp_path: Path) -> None:
    found = file_layer(tmp_path, "log.retention.mss = 1")
    with pytest.raises(SettingsError) as caught:
        load_config([layer(node_id="1"), found])
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "penstock.toml"))
    assert "log.retention.mss" in message
    assert "did you mean log.retention.ms" in message
    assert "\n" not in message


def test_a_wrong_value_is_told_with_where_it_stands() -> None:
    with pytest.raises(
        SettingsError, match=r"^environment variable PENSTOCK_NODE_ID: node\.id: 'x' is no integer"
    ):
        load_config([from_environment({"PENSTOCK_NODE_ID": "x"})])


def test_a_conflict_of_two_sources_is_blamed_on_neither() -> None:
    strong = layer(broker_heartbeat_interval_ms="4000")
    with pytest.raises(SettingsError, match=r"^broker\.heartbeat\.interval\.ms must be"):
        load_config([strong, layer(broker_session_timeout_ms="5000")])


def test_the_settings_file_of_a_cluster_on_the_operations_page_is_refused(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "operations.md").read_text()
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    config = load_config([file_layer(tmp_path, text)])
    assert (config.node_id, config.rack, config.default_replication_factor) == (1, "a", 3)
    assert config.metadata_location.startswith("etcd://")
