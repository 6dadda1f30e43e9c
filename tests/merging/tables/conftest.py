import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

WriteEvaluation = Callable[[str, Mapping[str, Sequence[int]]], Path]


@pytest.fixture
def write_evaluation(tmp_path: Path) -> WriteEvaluation:
    """Write an evaluation folder from ones and zeros for each task: 1 = right. True labels alternate."""

    def write(name: str, correct: Mapping[str, Sequence[int]]) -> Path:
        folder = tmp_path / name
        (folder / "predictions").mkdir(parents=True)
        for task, values in correct.items():
            lines = [
                json.dumps({"label": number % 2, "prediction": number % 2 if right else 1 - number % 2})
                for number, right in enumerate(values)
            ]
            (folder / "predictions" / f"{task}.jsonl").write_text("\n".join(lines) + "\n")
        return folder

    return write
