"""The implementations that each contract suite is run against."""

from pathlib import Path

import pytest
from trio.abc import Clock

from tests.support.metadata_stores import STORES, StorePlace


@pytest.fixture(params=sorted(STORES))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> StorePlace:
    return STORES[request.param](tmp_path)


@pytest.fixture
def clock(place: StorePlace) -> Clock:
    """Asked for by tests in which time passes: pytest-trio runs them on it."""
    return place.clock
