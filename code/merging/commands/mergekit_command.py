"""``merging merge --config FILE.yml``: a mergekit file from the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from merging.commands.command_line import Argument, Command, Parser, announce
from merging.merge.compute_options import ComputeOptions
from merging.merge.output_options import OutputOptions

_SUFFIXES = (".yml", ".yaml")


def split_file(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Find the YAML file among the words after ``merging merge``.

    Returns:
        The file, and the other words; None, and all words, where ``--config`` names no YAML file.
    """
    parser = Parser(prog="merging merge", add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    known, rest = parser.parse_known_args(list(words))
    if known.config is None or Path(known.config).suffix.lower() not in _SUFFIXES:
        return None, list(words)
    return known.config, rest


def command(file: str, out: Argument) -> Command:
    """The command that merges what ``file`` says; ``out`` is the argument for the folder to make."""

    def run(*, out: str, output: Mapping[str, Any], compute: Mapping[str, Any]) -> str:
        from merging.mergekit.run import merge_file

        merge_file(file, out=out, output=output, compute=compute, announce=announce)
        return f"wrote {out}"

    return Command(
        name="merge",
        help="Merge what a mergekit YAML file says: models, method, parameters, tokenizer.",
        arguments=(out,),
        run=run,
        settings={"output": OutputOptions, "compute": ComputeOptions},
        epilog="example:\n  merging merge --config mergekit.yml --out merged",
    )
