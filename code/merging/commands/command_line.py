"""Commands described as data, and the parser made of them.

Every argument of a command is a flag and a key of its JSON file, under the name that the library function
has.
The fields of the command's options are flags too, and lie under ``"options"`` in the file; so are those of
other settings, each under a key of its own (``"output"``). Flags win over the file.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from merging.errors import OptionError
from merging.option_fields import Field, fields, from_words
from merging.registry import unknown


@dataclass(frozen=True, kw_only=True)
class Argument:
    """One argument of a command."""

    name: str
    help: str
    metavar: str
    read: Callable[[str], Any] = str
    """From text on the command line to the value that stands in a JSON file."""
    default: Any = None
    required: bool = False
    by_task: bool = False
    """Whether it maps tasks to values: ``--models a=FOLDER b=FOLDER``."""
    many: bool = False
    """Whether it takes several values."""
    switch: bool = False
    """Whether the flag stands alone; ``true`` in a JSON file."""

    @property
    def flag(self) -> str:
        """How it is written on the command line."""
        return _flag(self.name)


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command: its arguments, and the function that gets them by name."""

    name: str
    help: str
    arguments: Sequence[Argument]
    run: Callable[..., str]
    """Does the work; gets every argument by name, and ``options`` if it has any; returns what to print."""
    options: Callable[[Mapping[str, Any]], type | None] | None = None
    """Dataclass of its options, from what is known of the other arguments; None: not known yet."""
    settings: Mapping[str, type] = field(default_factory=dict)
    """Dataclasses of other settings by their key in the file; ``run`` gets each under its key."""
    scheduled: bool = False
    """Whether options that are numbers may be gradients and filters; see :mod:`merging.schedules`."""
    leading: str | None = None
    """Argument that may be given without its flag, as the first word."""
    epilog: str = ""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are ours: one line, with a suggestion."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage."""
        raise OptionError(f"{self.prog}: {message}. See {self.prog} --help.")


def dataset(text: str) -> Any:
    """Read ``FOLDER:SPLIT``, e.g. ``data/imdb:train[:20%]``, several joined by a comma, or JSON.

    Raises:
        OptionError: the text is neither.
    """
    if text.lstrip().startswith(("{", "[")):
        return as_json(text)
    found = [_one_dataset(part) for part in text.split(",")]
    return found[0] if len(found) == 1 else found


def dataset_or_file(text: str) -> Any:
    """Read what :func:`dataset` reads, or the path of a file.

    Raises:
        OptionError: neither, or there is no such file.
    """
    if not Path(text).is_file() and Path(text).suffix and ":" not in text:
        raise OptionError(f"there is no file {text}. Give one, or FOLDER:SPLIT, e.g. data/imdb:test.")
    return text if Path(text).is_file() else dataset(text)


def folder_or_json(text: str) -> Any:
    """Read a folder, or a JSON object."""
    return as_json(text) if text.lstrip().startswith("{") else text


def as_json(text: str) -> Any:
    """Read JSON.

    Raises:
        OptionError: the text is none.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise OptionError(f"not JSON: {text!r} ({error}).") from error


def read_config(file: str) -> dict[str, Any]:
    """Read a JSON file of arguments.

    Raises:
        OptionError: no such file, or no JSON object in it.
    """
    try:
        config = json.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"cannot read {file}: {error.strerror}. Give the path of a JSON file.") from error
    except ValueError as error:
        raise OptionError(f"{file} is no JSON: {error}.") from error
    if not isinstance(config, dict):
        raise OptionError(f"{file} must hold a JSON object {{...}}, not {type(config).__name__}.")
    return config


def parse(command: Command, argv: Sequence[str]) -> dict[str, Any]:
    """Turn the words after a command's name into the arguments of its function.

    Raises:
        OptionError: an unknown flag or key, a value that cannot be read, or a required argument that is
            missing.
    """
    if command.leading is not None and argv and not argv[0].startswith("-"):
        argv = [_flag(command.leading), *argv]
    config = _config_of(command, argv)
    known = {argument.name: argument for argument in command.arguments}
    sections = [*(["options"] if command.options else []), *command.settings]
    allowed = [*known, *sections]
    for key in config:
        if key not in allowed:
            raise OptionError(f"merging {command.name}: {unknown('key', key, allowed)}")
    for key in sections:
        if not isinstance(config.get(key, {}), dict):
            raise OptionError(f"merging {command.name}: {key} must be a JSON object, got {config[key]!r}.")
    early = {**config, **_early(command, argv)}
    options_class = command.options(early) if command.options else None
    given, settings = _flags(command, options_class, argv)
    from_file = {key: _from_file(known[key], value) for key, value in config.items() if key in known}
    values = {name: argument.default for name, argument in known.items()} | from_file | given
    missing = [
        argument.flag for argument in command.arguments if argument.required and values[argument.name] is None
    ]
    if missing:
        raise OptionError(
            f"merging {command.name}: {', '.join(missing)} must be given, as a flag or in the JSON file. "
            f"See merging {command.name} --help."
        )
    return values | {key: {**config.get(key, {}), **settings.get(key, {})} for key in sections}


def build_parser(command: Command, options_class: type | None) -> Parser:
    """Make the parser of one command."""
    parser = Parser(
        prog=f"merging {command.name}",
        description=command.help,
        epilog=command.epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--config", metavar="FILE", help="JSON file of arguments; flags win over it")
    for argument in command.arguments:
        _add(parser, argument)
    for key, described in _sections(command, options_class).items():
        group = parser.add_argument_group(f'settings, under "{key}" in a JSON file')
        for its in described.values():
            default = "required" if its.default is None else f"default {its.default}"
            group.add_argument(
                _flag(its.name),
                dest=f"{key}.{its.name}",
                metavar="VALUE",
                nargs="+" if its.takes_several else None,
                help=f"{its.text} ({its.type_text}; {default})".replace("%", "%%"),
            )
    return parser


def _sections(command: Command, options_class: type | None) -> dict[str, dict[str, Field]]:
    """Every setting by its key in the file and its name."""
    classes = ({} if options_class is None else {"options": options_class}) | dict(command.settings)
    return {key: {its.name: its for its in fields(its_class)} for key, its_class in classes.items()}


def _add(parser: Parser, argument: Argument) -> None:
    text = argument.help + (" (required)" if argument.required else "")
    if argument.switch:
        parser.add_argument(argument.flag, dest=argument.name, action="store_true", help=text)
        return
    if argument.default is not None:
        text += f" (default {argument.default})"
    parser.add_argument(
        argument.flag,
        dest=argument.name,
        metavar=f"TASK={argument.metavar}" if argument.by_task else argument.metavar,
        nargs="+" if argument.by_task or argument.many else None,
        help=text.replace("%", "%%"),
    )


def _flags(
    command: Command, options_class: type | None, argv: Sequence[str]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Arguments that stand on the command line, and settings by their key in the file."""
    sections = _sections(command, options_class)
    found, rest = build_parser(command, options_class).parse_known_args(list(argv))
    if rest:
        names = [name for described in sections.values() for name in described]
        flags = ["--config", *(argument.flag for argument in command.arguments), *map(_flag, names)]
        hint = ". More are known with --method" if command.options and options_class is None else ""
        what = "flag" if rest[0].startswith("-") else "word"
        raise OptionError(f"merging {command.name}: {unknown(what, rest[0].split('=')[0], flags)}{hint}")
    values = vars(found)
    given = {
        argument.name: _read(argument, values[argument.name])
        for argument in command.arguments
        if argument.name in values
    }
    settings = {
        key: {
            name: from_words(
                values[f"{key}.{name}"],
                its.hint,
                name=_flag(name),
                scheduled=command.scheduled and key == "options",
            )
            for name, its in described.items()
            if f"{key}.{name}" in values
        }
        for key, described in sections.items()
    }
    return given, settings


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _read(argument: Argument, value: Any) -> Any:
    if argument.switch:
        return value
    if argument.many:
        return [argument.read(item) for item in value]
    if not argument.by_task:
        return argument.read(value)
    found = {}
    for item in value:
        task, separator, text = item.partition("=")
        if not separator or not task or not text:
            raise OptionError(f"{argument.flag}: expected TASK={argument.metavar}, got {item!r}.")
        if task in found:
            raise OptionError(f"{argument.flag}: task {task!r} is given twice.")
        found[task] = argument.read(text)
    return found


def _from_file(argument: Argument, value: Any) -> Any:
    """A value of the JSON file; data sets may be written as they are on the command line."""
    if argument.read not in (dataset, dataset_or_file):
        return value
    if argument.by_task and isinstance(value, Mapping):
        return {task: argument.read(its) if isinstance(its, str) else its for task, its in value.items()}
    return argument.read(value) if isinstance(value, str) else value


def _config_of(command: Command, argv: Sequence[str]) -> dict[str, Any]:
    parser = Parser(prog=f"merging {command.name}", add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    file = parser.parse_known_args(list(argv))[0].config
    return {} if file is None else read_config(file)


def _early(command: Command, argv: Sequence[str]) -> dict[str, str]:
    """Plain arguments that decide which options there are, such as the merge method."""
    parser = Parser(
        prog=f"merging {command.name}", add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS
    )
    for argument in command.arguments:
        if not (argument.by_task or argument.many or argument.switch):
            parser.add_argument(argument.flag, dest=argument.name)
    return vars(parser.parse_known_args(list(argv))[0])


def _one_dataset(text: str) -> dict[str, str]:
    match = re.fullmatch(r"(?P<data>[^\[\]]+?):(?P<split>[A-Za-z_][^:/]*(\[.*)?)", text)
    if not match:
        raise OptionError(f"cannot read data set {text!r}. Write FOLDER:SPLIT, e.g. data/imdb:train[:20%].")
    return match.groupdict()


def announce(cost: object) -> None:
    """Say on standard error what a command will take, before it starts."""
    sys.stderr.write(f"{cost}\n")


def write(text: str) -> None:
    """Print to standard output."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
