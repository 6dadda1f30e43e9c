import io
import time
from pathlib import Path

import pytest
from merging.progress import describe, fraction, last, shown


def test_the_last_complete_line(tmp_path: Path) -> None:
    file = tmp_path / "progress.jsonl"
    assert last(file) is None
    file.write_text("")
    assert last(file) is None
    file.write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert last(file) == {"step": 2}
    file.write_text("".join(f'{{"step": {step}, "note": "{"x" * 300}"}}\n' for step in range(100)))
    assert (last(file) or {})["step"] == 99


def test_lines_that_are_no_progress_are_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "progress.jsonl"
    file.write_text('{"step": 1}\n17\nnot json\n')
    assert last(file) == {"step": 1}


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (None, None),
        ({"step": 3}, None),
        ({"step": 3, "total_steps": 4}, 0.75),
        ({"step": 5, "total_steps": 4}, 1.0),
    ],
)
def test_fraction(entry: dict[str, float] | None, expected: float | None) -> None:
    assert fraction(entry) == expected


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "expected"),
    [(io.StringIO(), "step 2/4\nstep 3/4\n"), (Terminal(), "\r\x1b[Kstep 2/4\r\x1b[Kstep 3/4\r\x1b[K")],
)
def test_progress_is_shown_while_a_step_runs(tmp_path: Path, stream: io.StringIO, expected: str) -> None:
    file = tmp_path / "progress.jsonl"
    file.write_text('{"step": 1, "total_steps": 4}\n')
    with shown(file, stream, interval_s=0.001):
        for step in (2, 3):
            with file.open("a") as appended:
                appended.write(f'{{"step": {step}, "total_steps": 4}}\n')
            deadline = time.monotonic() + 20
            while f"step {step}/4" not in stream.getvalue() and time.monotonic() < deadline:
                time.sleep(0.001)
    assert stream.getvalue() == expected


def test_one_line_for_people() -> None:
    entry = {
        "step": 120,
        "total_steps": 300,
        "epoch": 1.2,
        "loss": 0.3123,
        "examples_per_s": 85.4,
        "seconds_left": 130,
    }
    assert describe(entry) == "step 120/300, epoch 1.2, loss 0.312, 85.4 examples/s, 2 min left"
    assert describe({"step": 1, "total_steps": 2, "seconds_left": 30}) == "step 1/2, 30 s left"
    assert describe({"seconds_left": 9000.0}) == "2.5 h left"
    assert describe(None) is None
    assert describe({}) is None
