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
    parser.addoption("--outages", action="store_true", help="also run the tests that break a Slurm: minutes")


_ON_REQUEST = {
    "hub": "needs the Hugging Face Hub; pass --hub",
    "outages": "takes minutes; pass --outages, or run make test-slurm",
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for marker, reason in _ON_REQUEST.items():
        if not config.getoption(f"--{marker}"):
            for item in items:
                if item.get_closest_marker(marker):
                    item.add_marker(pytest.mark.skip(reason=reason))
