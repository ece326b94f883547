"""What `make generate` writes must be what is committed, and agree with the hand-kept API table."""

from pathlib import Path

import pytest
from tests import generate_schemas
from tests.generate_schemas import PROTOCOL_PAGE, SCHEMAS, all_sources, protocol_page

from penstock.protocol.api import FLEXIBLE_FROM, NEVER, SERVED, ApiKey
from penstock.protocol.schema import load_schema, table_versions


def test_committed_tables_are_what_the_generator_writes(tmp_path: Path) -> None:
    for name, text in all_sources():
        (tmp_path / name).write_text(text)
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    committed = {path.name: path.read_text() for path in SCHEMAS.glob("*.py") if path.name != "__init__.py"}
    assert committed == made


def test_protocol_page_shows_the_api_table() -> None:
    page = PROTOCOL_PAGE.read_text()
    assert protocol_page(page) == page
    assert generate_schemas.TABLE_END in page


@pytest.mark.parametrize("key", ApiKey, ids=lambda key: key.name.lower())
def test_first_flexible_version_agrees_with_the_table(key: ApiKey) -> None:
    versions = table_versions(key)
    flexible = [v for v in versions if load_schema(key, v, request=True).flexible]
    assert (flexible[0] if flexible else NEVER) == max(FLEXIBLE_FROM[key], versions[0])


@pytest.mark.parametrize("key", SERVED)
def test_every_served_version_has_a_table_but_refused_produce(key: int) -> None:
    without = {version for version in SERVED[key].versions if version not in table_versions(key)}
    assert without == ({0, 1, 2} if key == ApiKey.PRODUCE else set())
