"""Where the extra `parquet` is not installed: one line says so, and everything else works."""

import subprocess
import sys

BARE = """
import sys
sys.modules["pyarrow"] = sys.modules["numpy"] = None  # as if they were not there
import penstock.cli.export_work, penstock.cli.import_work, penstock.cli.consume_work
from penstock.cli.main import run
sys.exit(run(["export", "t", "--out", "/nowhere/at/all"]))
"""


def test_parquet_without_pyarrow_is_one_line_that_says_what_to_install() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BARE], capture_output=True, timeout=60, check=False, text=True
    )
    assert done.returncode == 1, done.stderr
    assert (
        done.stderr
        == "penstock: parquet needs pyarrow: pip install 'penstock[parquet]'; jsonl and csv need nothing\n"
    )
