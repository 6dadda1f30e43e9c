"""``uncertainty_based_gradient_matching.py`` and ``task_arithmetic.py``: programs that take flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from merging.commands.command_line import Parser
from merging.errors import OptionError
from merging.predecessor.messages import run, say
from merging.predecessor.parameters import choose
from merging.registry import unknown

TASK_TYPES = {"SEQ_CLS": "sequence_classification"}
"""Its task types, in ours."""


def gradient_matching(argv: Sequence[str]) -> int:
    """``python3 code/uncertainty_based_gradient_matching.py --...``; returns the exit code."""
    return run(_gradient_matching, argv)


def task_arithmetic(argv: Sequence[str]) -> int:
    """``python3 code/task_arithmetic.py --...``; returns the exit code."""
    return run(_task_arithmetic, argv)


def _gradient_matching(argv: Sequence[str]) -> None:
    parser = _merge_parser("uncertainty_based_gradient_matching.py")
    parser.add_argument("--pretrained_hessian_path", required=True)
    parser.add_argument("--ft_hessian_paths", required=True, nargs="+")
    parser.add_argument("--scaling_factors_ft", required=True, nargs="+", help="sizes of the training sets")
    parser.add_argument(
        "--scaling_factor_pt", type=float, default=1.0, help="size of the base's training set"
    )
    parser.add_argument("--delta_0", type=float, default=1e-12)
    found = _parse(parser, argv)
    models = by_task(found.ft_model_name_or_paths)
    paths, scales = _listed(found.ft_hessian_paths), _listed(found.scaling_factors_ft)
    for key, values in (("ft_hessian_paths", paths), ("scaling_factors_ft", scales)):
        if len(values) != len(models):
            raise OptionError(
                f"--{key} has {len(values)} values, but there are {len(models)} fine-tuned models."
            )
    hessians = {
        task: {"hessian": hessian_folder(path), "scale": _number("scaling_factors_ft", scale)}
        for task, path, scale in zip(models, paths, scales, strict=True)
    }
    base_hessian = {
        "hessian": hessian_folder(found.pretrained_hessian_path),
        "scale": found.scaling_factor_pt,
    }
    options = {"scaling_factor": found.scaling_factor, "delta_0": found.delta_0}
    _merge("gradient_matching", options, found, models, {"base_hessian": base_hessian, "hessians": hessians})


def _task_arithmetic(argv: Sequence[str]) -> None:
    found = _parse(_merge_parser("task_arithmetic.py"), argv)
    models = by_task(found.ft_model_name_or_paths)
    _merge("task_arithmetic", {"scaling_factor": found.scaling_factor}, found, models, {})


def _merge(
    method: str, options: Mapping[str, Any], found: Any, models: Mapping[str, str], extras: Mapping[str, Any]
) -> None:
    choose("task_type", found.task_type, (*TASK_TYPES, *TASK_TYPES.values()))
    from merging.merge.streaming import merge_checkpoints

    merge_checkpoints(
        method=method,
        options=options,
        base=found.pretrained_model_name_or_path,
        models=models,
        extras=extras,
        out=found.out_model_path,
    )
    say(f"wrote {found.out_model_path}")


def _merge_parser(name: str) -> Parser:
    parser = Parser(prog=name, description="Lists are separated by blanks or commas.", allow_abbrev=False)
    parser.add_argument("--pretrained_model_name_or_path", required=True)
    parser.add_argument("--ft_model_name_or_paths", required=True, nargs="+")
    parser.add_argument("--out_model_path", required=True)
    parser.add_argument("--scaling_factor", type=float, default=1.0)
    parser.add_argument("--task_type", default="SEQ_CLS")
    return parser


def _parse(parser: Parser, argv: Sequence[str]) -> Any:
    found, rest = parser.parse_known_args(list(argv))
    if rest:
        flags = [f"--{name}" for name in vars(found)]
        raise OptionError(f"{parser.prog}: {unknown('parameter', rest[0].split('=')[0], flags)}")
    return found


def _listed(values: Sequence[str]) -> list[str]:
    """Values separated by blanks, or by commas as the predecessor wanted them; a path may hold a comma."""
    if len(values) == 1 and not Path(values[0]).exists():
        return [value for value in values[0].split(",") if value]
    return list(values)


def by_task(paths: Sequence[str]) -> dict[str, str]:
    """Fine-tuned models named by number and folder, so that equal folder names do not collide."""
    return {f"{number:03d}_{Path(path).name}": path for number, path in enumerate(_listed(paths))}


def hessian_folder(path: str) -> str:
    """It kept Hessians in a folder ``hessian`` below the output of the estimate; both are understood."""
    below = Path(path) / "hessian"
    return str(below) if (below / "hessian.json").is_file() else path


def _number(key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise OptionError(f"--{key}: {text!r} is no number.") from error
