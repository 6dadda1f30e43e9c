"""Options of the test run."""

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--vectors",
        type=Path,
        default=None,
        help="folder of reference vectors for test_vectors.py",
    )
    parser.addoption("--hub", action="store_true", help="also run the tests that need the Hugging Face Hub")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--hub"):
        return
    for item in items:
        if item.get_closest_marker("hub"):
            item.add_marker(pytest.mark.skip(reason="needs the Hugging Face Hub; pass --hub"))
