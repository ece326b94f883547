import subprocess
import sys
from pathlib import Path

import pytest
from bench.ports import free_ports

from penstock.runtime.environment import Environment
from penstock.runtime.metadata import MetadataError, MetadataUnavailable
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


def test_a_store_of_another_kind_is_refused_and_its_password_not_shown() -> None:
    with pytest.raises(MetadataError, match="zookeeper://") as caught:
        production_environment().open_metadata("zookeeper://me:secret@localhost:2181")
    assert "secret" not in str(caught.value)


def test_a_broker_that_runs_alone_loads_nothing_of_etcd(tmp_path: Path) -> None:
    code = f"""if True:
        import sys, trio
        from penstock.runtime.production import production_environment
        async def main():
            async with production_environment().open_metadata({str(tmp_path / "metadata.db")!r}):
                print(*sys.modules)
        trio.run(main)"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(output.stdout.split())
    assert "penstock.runtime.sqlite_metadata" in loaded
    assert not {
        name
        for name in loaded
        if name.partition(".")[0] in {"httpx", "httpcore", "anyio"} or ".etcd_" in name
    }


async def test_opening_a_store_on_etcd_asks_nothing_and_a_call_says_that_nobody_is_there() -> None:
    (port,) = free_ports(1)
    async with production_environment().open_metadata(f"etcd://me:secret@127.0.0.1:{port}") as store:
        with pytest.raises(MetadataUnavailable, match=f"127.0.0.1:{port}") as caught:
            await store.get("/a")
    assert "secret" not in str(caught.value)
