"""Finding and loading configs and recipes."""

from __future__ import annotations

import gc
import importlib
import importlib.machinery
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from sisyphus import global_settings as gs
from sisyphus.block import set_root_block
from sisyphus.configs import origin
from sisyphus.errors import ConfigError, NoConfigError, NoFunctionError

if TYPE_CHECKING:
    import asyncio
    import types

    from sisyphus.configs.event_loop import SteppedLoop

_PYTHON_FILE = "py"
"""Function that is called for ``config/exp.py``."""


class RecipeFinder:
    """Finds modules along ``gs.IMPORT_PATHS``, after Python's own finders.

    An entry that ends in a slash is a directory whose content is importable by its own name; any other entry
    is a package: only it and modules below it are looked for there.
    """

    @classmethod
    def install(cls) -> None:
        """Add this finder to Python's, once."""
        if cls not in sys.meta_path:
            sys.meta_path.append(cls)

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return where the module is, None if it is not along these paths."""
        *parents, _ = fullname.split(".")
        for entry in gs.IMPORT_PATHS:
            location = os.path.normpath(os.path.join(gs.BASE_DIR, entry))
            if not entry.endswith("/"):
                location, package = os.path.split(location)
                if fullname.split(".")[0] != package:
                    continue
            spec = importlib.machinery.PathFinder.find_spec(fullname, [os.path.join(location, *parents)])
            if spec is not None:
                if spec.submodule_search_locations is not None:
                    # a plain list: that of a namespace package would be searched for again along sys.path
                    spec.submodule_search_locations = list(spec.submodule_search_locations)
                return spec
        return None


# --- config arguments ---


class ConfigCall(NamedTuple):
    """A config argument, taken apart."""

    module: str
    function: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def parse_config_argument(argument: str) -> ConfigCall:
    """Take ``PATH_OR_MODULE.FUNCTION`` or ``PATH_OR_MODULE.FUNCTION(literal arguments)`` apart.

    Raises:
        ConfigError: if it does not look like that.
    """
    place, parenthesis, rest = argument.strip().partition("(")
    args, kwargs = _parse_literals(argument, parenthesis + rest)
    parts = _relative_place(place).replace("/", ".").split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise ConfigError(
            f"not a config: {argument!r}. Give a file such as 'config/exp.py', or a function such as "
            "'config.exp.main' "
            "or 'config/exp.train(3, \"x\")'; all names must be Python identifiers."
        )
    return ConfigCall(".".join(parts[:-1]), parts[-1], args, kwargs)


def _relative_place(place: str) -> str:
    """The part that names file and function, without the directory that modules are found in."""
    if os.path.isabs(place):
        place = os.path.relpath(place, gs.BASE_DIR)
    place = place.removeprefix("./")
    for entry in gs.IMPORT_PATHS:
        if entry.endswith("/") and place.startswith(entry):
            return place.removeprefix(entry)
    return place


def _parse_literals(argument: str, text: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    import ast

    if not text:
        return (), {}
    try:
        call = ast.parse("f" + text, mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError("there must be one pair of parentheses")
        if any(keyword.arg is None for keyword in call.keywords):
            raise ValueError("'**' is not possible")
        args = tuple(ast.literal_eval(arg) for arg in call.args)
        kwargs = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"arguments of the config {argument!r} must be Python literals: {error}") from error
    return args, kwargs


def default_config() -> str:
    """Return the config that is loaded if none is named.

    Raises:
        NoConfigError: if there is none.
    """
    if os.path.isfile(gs.CONFIG_FILE_DEFAULT):
        return gs.CONFIG_FILE_DEFAULT
    if os.path.isdir(gs.CONFIG_PREFIX):
        return gs.CONFIG_FUNCTION_DEFAULT
    raise NoConfigError(
        f"no config: neither the file {gs.CONFIG_FILE_DEFAULT} nor the directory {gs.CONFIG_PREFIX} exists "
        f"in {gs.BASE_DIR}. Name a config, e.g. 'config/exp.py'."
    )


# --- loading ---


@contextmanager
def _seldom_collecting_garbage() -> Iterator[None]:
    """Let Python look for cycles less often, and afterwards not among what is there: a graph stays."""
    before = gc.get_threshold()
    gc.set_threshold(max(before[0], 50_000) if before[0] else 0, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.freeze()


class ConfigManager:
    """Loads configs, and lets the async ones go on as results come in."""

    def __init__(self) -> None:
        self._loop: SteppedLoop | None = None
        self._readers: dict[asyncio.Task[Any], str] = {}

    def load_configs(self, arguments: Iterable[str] | str | None = None) -> None:
        """Load configs; without any, the default one.

        Raises:
            ConfigError: if an argument is no config.
            NoFunctionError: if a module lacks the function.
        """
        arguments = [arguments] if isinstance(arguments, str) else list(arguments or ())
        with _seldom_collecting_garbage():
            for argument in arguments or [default_config()]:
                self.load_config(argument)

    def load_config(self, argument: str) -> None:
        """Load one config: import its module, call its function."""
        call = parse_config_argument(argument)
        set_root_block(argument)
        origin.config_modules.add(call.module)
        module = self._import(argument, call.module)
        function = getattr(module, call.function, None)
        if function is None and call.function != _PYTHON_FILE:
            raise NoFunctionError(
                f"config {argument!r}: module {call.module} ({module.__file__}) has no function "
                f"{call.function!r}"
            )
        if function is not None:
            self._call(argument, function, call)
        elif gs.WARNING_NO_FUNCTION_CALLED:
            logging.warning(
                f"No function {_PYTHON_FILE!r} in {module.__file__}: it was imported, nothing was called"
            )
        logging.info(f"Loaded config: {argument} (loaded module: {call.module})")

    def _import(self, argument: str, name: str) -> types.ModuleType:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
                raise ConfigError(
                    f"config {argument!r}: there is no module {name!r} in {gs.BASE_DIR} or along "
                    f"IMPORT_PATHS {gs.IMPORT_PATHS}"
                ) from error
            raise
        self._check_shadowing(argument, name, module)
        return module

    def _check_shadowing(self, argument: str, name: str, module: types.ModuleType) -> None:
        """Raise if another module of the same name was loaded instead of the file that was asked for."""
        wanted = os.path.join(gs.BASE_DIR, argument)
        loaded = getattr(module, "__file__", None)
        if (
            argument.endswith(".py")
            and os.path.isfile(wanted)
            and not (loaded and os.path.samefile(wanted, loaded))
        ):
            raise ConfigError(
                f"config {argument!r}: Python has another module {name!r}, {loaded}. Rename the config, or "
                f"move it into the directory {gs.CONFIG_PREFIX}."
            )

    def _call(self, argument: str, function: Callable[..., Any], call: ConfigCall) -> None:
        import inspect

        result = function(*call.args, **call.kwargs)
        if not inspect.isawaitable(result):
            return

        async def read() -> None:
            await result

        loop = self._event_loop()
        self._readers[loop.create_task(read(), name=argument)] = argument
        self.continue_readers()

    # --- async configs ---

    def _event_loop(self) -> SteppedLoop:
        if self._loop is None:
            from sisyphus.configs.event_loop import SteppedLoop

            self._loop = SteppedLoop()
        return self._loop

    def continue_readers(self) -> None:
        """Let all async configs go on as far as they can; an exception in one is raised here."""
        if not self._readers or self._loop is None or self._loop.is_running():
            return  # a config that loads another one is driven by the call further up
        from sisyphus.async_workflow import resolve_waiting

        self._loop.run_until_all_wait()
        while resolve_waiting():
            self._loop.run_until_all_wait()
        for reader in [reader for reader in self._readers if reader.done()]:
            del self._readers[reader]
            if not reader.cancelled():
                reader.result()

    def reader_running(self) -> bool:
        """Whether an async config is not through."""
        return any(not reader.done() for reader in self._readers)

    def waiting_configs(self) -> list[str]:
        """Return the async configs that are not through."""
        return sorted(argument for reader, argument in self._readers.items() if not reader.done())

    def print_waiting(self) -> None:
        """Log which async configs are not through."""
        if self.reader_running():
            logging.info(f"Configs waiting for jobs to finish: {' '.join(self.waiting_configs())}")

    def cancel_all_reader(self) -> None:
        """End all async configs that still wait, with a warning."""
        for reader, argument in self._readers.items():
            if not reader.done():
                logging.warning(
                    f"Config ends before it is through, what it waited for did not come: {argument}"
                )
                reader.cancel()
        self._readers.clear()
        if self._loop is not None and not self._loop.is_running():
            self._loop.run_until_all_wait()
            self._loop.close()
            self._loop = None


config_manager = ConfigManager()
"""The configs of this process."""
