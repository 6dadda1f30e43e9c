"""Every config gives the same job ids on upstream Sisyphus.

Set ``UPSTREAM_PYTHON`` to an interpreter that has upstream installed (not this project); skipped otherwise.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests/config/build_graph.py"
AMAZON = ("books", "electronics", "health_personal_care", "music", "toys_games")
UPSTREAM_PYTHON = os.environ.get("UPSTREAM_PYTHON")


def build(python: str, config: str, environment: dict[str, str]) -> Any:
    done = subprocess.run(
        [python, str(SCRIPT), config],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(
    UPSTREAM_PYTHON is None, reason="UPSTREAM_PYTHON names no interpreter with upstream Sisyphus"
)
@pytest.mark.parametrize("config", ["quickstart", "example", "table1", "reviews"])
def test_same_ids(config: str, tmp_path: Path) -> None:
    for name in ("imdb", "yelp", "sst2", "customer_reviews", *(f"amazon_{domain}" for domain in AMAZON)):
        (tmp_path / "data" / name).mkdir(parents=True)
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    (tmp_path / "model/model.safetensors").write_bytes(b"weights")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/merging").symlink_to(ROOT / "code/merging")  # without our package sisyphus beside it
    site = {"MERGING_DATA": str(tmp_path / "data"), "MERGING_BASE_MODEL": str(tmp_path / "model")}
    ours = build(sys.executable, f"config/{config}.py", site)
    theirs = build(str(UPSTREAM_PYTHON), f"config/{config}.py", {**site, "PYTHONPATH": str(tmp_path / "lib")})
    assert theirs["ids"] == ours["ids"]
    assert theirs["outputs"] == ours["outputs"]
    assert theirs["aliases"] == ours["aliases"]
