"""No link in the Markdown is dead, and what the README shows works."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("scripts/*.md")])
README = (ROOT / "README.md").read_text()


def block(start: str) -> str:
    """The Python block of the README that contains a text."""
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    return next(text for text in blocks if start in text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    local = [link for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_readme_names_real_make_targets() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    shown = set(re.findall(r"\bmake ([a-z-]+)`?$", README, flags=re.M))
    assert {"quickstart", "test"} <= shown <= targets


def test_readme_config_and_job_run(tmp_path: Path) -> None:
    """The config builds its graph; the job gives the right number."""
    model = tmp_path / "model"
    model.mkdir()
    save_file({"a": np.zeros((2, 3)), "b": np.zeros(4)}, model / "model.safetensors")
    (tmp_path / "recipe").symlink_to(ROOT / "recipe")
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps/count.py").write_text(block("class CountParametersJob"))
    (tmp_path / "config").mkdir()
    (tmp_path / "config/mine.py").write_text(block("def parts"))
    (tmp_path / "config/count.py").write_text(
        "from sisyphus import tk\nfrom steps.count import CountParametersJob\n"
        f"def py():\n    model = tk.Path({str(model)!r}, hash_overwrite='tiny')\n"
        "    tk.register_output('count', CountParametersJob(model=model).out_count)\n"
    )
    (tmp_path / "settings.py").write_text('IMPORT_PATHS = ["config", "recipe", "steps"]\n')
    sis = [sys.executable, "-m", "sisyphus"]
    options = {"cwd": tmp_path, "stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    shown = subprocess.run([*sis, "manager", "config/mine.py"], check=True, **options)
    assert "DownloadModelJob" in shown.stderr
    subprocess.run([*sis, "manager", "-r", "config/count.py"], check=True, **options)
    assert (tmp_path / "output/count").read_text() == "10\n"
