import subprocess
import sys
from pathlib import Path

import pytest

from penstock.runtime.environment import Environment
from penstock.runtime.metadata import MetadataError
from penstock.runtime.production import production_environment

HEAVY = {"asyncio", "httpx", "penstock.runtime.sqlite_database", "rich", "sqlite3", "unittest", "xml"}


def test_the_environment_costs_nothing_but_trio() -> None:
    """What only some processes need is not loaded by all: the start of a broker is measured."""
    code = "import sys, trio; bare = set(sys.modules); import penstock.runtime.production; print(*set(sys.modules) - bare)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(output.stdout.split())
    assert loaded & HEAVY == set()
    assert not {name for name in loaded if not name.startswith("penstock")} - {
        "dataclasses",
        "fcntl",
        "resource",
    }


async def test_the_ports_fit_together(tmp_path: Path) -> None:
    environment: Environment = production_environment()
    path = str(tmp_path / "metadata.db")
    async with environment.open_metadata(path) as store:
        assert await store.get("/a") is None
    assert await environment.threads.run(environment.files.exists, path)


def test_a_store_of_another_kind_is_refused_and_named() -> None:
    with pytest.raises(MetadataError, match="etcd://localhost:2379"):
        production_environment().open_metadata("etcd://localhost:2379")
