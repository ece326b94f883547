"""What docs/testing.md promises besides its examples, which `test_readme_commands` runs as they stand."""

from pathlib import Path

import pytest
from tests.support.console_pages import code_blocks

pytest_plugins = ("pytester",)

PAGE = (Path(__file__).parents[3] / "docs" / "testing.md").read_text()
EXAMPLES = code_blocks(PAGE, "python")
LINES_MAX = 14
LIMIT_S = 60


def test_every_example_is_about_ten_lines_and_each_client_has_one() -> None:
    for client in (
        "confluent_kafka",
        "aiokafka",
        "penstock.Producer",
        "penstock.Broker(",
        "penstock.BrokerProcess(",
    ):
        assert any(client in example for example in EXAMPLES), client
    for example in EXAMPLES:
        lines = [line for line in example.splitlines() if line and not line.startswith(("import", "from"))]
        assert len(lines) <= LINES_MAX


def test_the_ini_file_of_the_page_is_taken(pytester: pytest.Pytester) -> None:
    (ini,) = code_blocks(PAGE, "ini")
    pytester.makeini(ini)
    pytester.makepyfile("""
        def test_it(penstock_broker):
            penstock_broker.create_topic("orders", partitions=-1)
            assert (penstock_broker.data_directory / "orders-2").is_dir()
    """)
    pytester.runpytest_subprocess("-p", "no:cacheprovider", timeout=LIMIT_S).assert_outcomes(passed=1)
