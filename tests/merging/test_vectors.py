"""Recorded inputs and outputs of the reference implementations, one test a case.

    pytest tests/merging/test_vectors.py --vectors DIR

A case is ``<case>.json`` (params, rtol, atol) and ``<case>.safetensors`` (``in/<group>/<tensor>``,
``out/<group>/<tensor>``). Who runs it is found by the prefix of its name: each file in ``vector_cases/`` says
which ``PREFIXES`` it runs, and its ``run(case)`` returns the tensors of each group of ``out``. The longest
prefix wins.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

# The cases that are part of the project, and all recorded ones where they are at hand.
FOLDERS = (Path(__file__).parent / "vectors", Path(__file__).parents[2] / "../shared/vectors/merging")


@dataclass(frozen=True)
class Case:
    """One recorded case, as runners see it."""

    name: str
    params: Mapping[str, Any]
    rtol: float
    atol: float
    groups: Mapping[str, Mapping[str, Tensor]] = field(repr=False)
    """Tensors by group (``in/theta0``) and name."""

    @classmethod
    def read(cls, path: Path) -> Case:
        record = json.loads(path.read_text())
        groups: dict[str, dict[str, Tensor]] = {}
        for key, tensor in load_file(path.with_suffix(".safetensors")).items():
            side, group, *name = key.split("/")
            groups.setdefault(f"{side}/{group}", {})["/".join(name)] = tensor
        return cls(path.stem, record["params"], record["rtol"], record["atol"], groups)

    def numbered(self, group: str) -> dict[str, Mapping[str, Tensor]]:
        """Groups ``theta1``, ``theta2``, ... by number as text, which serves as the task's name."""
        start = f"in/{group}"
        numbers = {key.removeprefix(start) for key in self.groups if key.startswith(start)} - {"0"}
        return {number: self.groups[start + number] for number in sorted(numbers) if number.isdigit()}

    def matching(self, group: str, expressions: Sequence[str]) -> list[str]:
        """Tensors of a group whose names match one of the regular expressions from their start."""
        return [name for name in self.groups[group] if any(re.match(its, name) for its in expressions)]


def longest_prefix(name: str, table: Mapping[str, Any]) -> Any:
    """The value of the longest key that the name starts with, or None."""
    fitting = [prefix for prefix in table if name.startswith(prefix)]
    return table[max(fitting, key=len)] if fitting else None


def load_runners() -> dict[str, ModuleType]:
    """Every prefix that a file in ``vector_cases/`` runs."""
    runners = {}
    for path in sorted((Path(__file__).parent / "vector_cases").glob("[!_]*.py")):
        spec = importlib.util.spec_from_file_location(f"vector_cases_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        runners.update(dict.fromkeys(module.PREFIXES, module))
    return runners


RUNNERS = load_runners()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "path" not in metafunc.fixturenames:
        return
    given = metafunc.config.getoption("--vectors")
    folders = FOLDERS if given is None else [given]
    cases = {path.stem: path for folder in folders for path in folder.glob("*.json")}
    if not cases:
        raise pytest.UsageError(f"--vectors: {folders[0]} holds no case (*.json)")
    paths = [cases[name] for name in sorted(cases)]
    metafunc.parametrize("path", paths, ids=[path.stem for path in paths])


def test_agrees_with_the_reference(path: Path) -> None:
    check(path)


@pytest.fixture
def several_threads() -> Iterator[None]:
    """Merge with three, whatever this machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("several_threads")
def test_agrees_with_the_reference_in_pieces(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces and threads are for speed: results are the same."""
    monkeypatch.setattr("merging.merge.tensor_merge.PIECE", 5)
    check(path)


def check(path: Path) -> None:
    """Run a case, and compare each tensor of ``out``."""
    case = Case.read(path)
    runner = longest_prefix(case.name, RUNNERS)
    assert runner is not None, f"no file in vector_cases/ runs {case.name}"
    result = runner.run(case)
    recorded = {group: tensors for group, tensors in case.groups.items() if group.startswith("out/")}
    assert recorded, f"{case.name}: no tensor out/<group>/<tensor> to compare with"
    for group, tensors in recorded.items():
        for name, expected in tensors.items():
            torch.testing.assert_close(
                result[group.removeprefix("out/")][name].double(),
                expected.double(),
                rtol=case.rtol,
                atol=case.atol,
                msg=lambda text, where=f"{group}/{name}": f"{where}: {text}",
            )


@pytest.mark.parametrize(
    ("name", "params", "complaint"),
    [
        ("mk_slerp_t0", {"t": 0.5}, "not close"),
        ("mk_ties_negative_weight", {"density": 0.25}, "not close"),
    ],
)
def test_what_a_runner_does_not_follow_fails(
    name: str, params: Mapping[str, Any], complaint: str, tmp_path: Path
) -> None:
    record = json.loads((FOLDERS[0] / f"{name}.json").read_text())
    (tmp_path / f"{name}.json").write_text(json.dumps({**record, "params": {**record["params"], **params}}))
    shutil.copy(FOLDERS[0] / f"{name}.safetensors", tmp_path)
    with pytest.raises(AssertionError, match=complaint):
        check(tmp_path / f"{name}.json")
