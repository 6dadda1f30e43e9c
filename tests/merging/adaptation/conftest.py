"""Two fine-tuned text classifiers of one base, with heads of their own, and unlabelled inputs for them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from merging import models, tasks

TASK = "sequence_classification"
LABELS = {"few": ("0", "1"), "many": ("a", "b", "c")}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test of this room writes into the user's cache."""
    monkeypatch.setenv("MERGING_CACHE", str(tmp_path / "cache"))


def write_classifier(start: Path, labels: tuple[str, ...], folder: Path, *, noise_seed: int | None) -> Path:
    """A classifier on the language model in ``start``; with a seed, its body is moved a little."""
    task = tasks.load(TASK)
    model = task.build_model(
        model=str(start), architecture=None, label_names=labels, dropout=None, seed=noise_seed or 0
    )
    if noise_seed is not None:
        generator = torch.Generator().manual_seed(noise_seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    with models.quiet():
        model.save_pretrained(folder)
        task.load_processor(model=str(start)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def folders(tiny_language_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Model folders: ``base``, and the tasks ``few`` (two classes) and ``many`` (three)."""
    root = tmp_path_factory.mktemp("adaptation")
    made = {"base": write_classifier(tiny_language_model, LABELS["few"], root / "base", noise_seed=None)}
    for seed, (name, labels) in enumerate(LABELS.items(), start=1):
        made[name] = write_classifier(tiny_language_model, labels, root / name, noise_seed=seed)
    return made


@pytest.fixture
def call(folders: Mapping[str, Path], reviews: Path) -> dict[str, Any]:
    """Arguments that everything that adapts takes."""
    data = {"data": reviews, "split": "train[:20]", "shuffle_seed": 0}
    return {
        "task_type": TASK,
        "models": {name: folders[name] for name in LABELS},
        "data": dict.fromkeys(LABELS, data),
        "seed": 3,
    }
