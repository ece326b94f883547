"""The page about configs is what the tables say."""

from tests.generate_configuration import PAGE, page


def test_docs_configuration_is_generated_from_the_tables() -> None:
    assert PAGE.read_text() == page(), "run `make generate`"
