"""`pytest tests/transcripts --rewrite` writes what comes out now; review it as a diff."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the flag (known only where this folder is named on the command line)."""
    parser.addoption("--rewrite", action="store_true", help="rewrite the transcripts instead of comparing")
