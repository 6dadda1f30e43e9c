"""Configs, recipes and the import hook."""

from __future__ import annotations

import gc
import importlib
import os
import sys
import textwrap

import pytest
from sisyphus import block, gs, tk
from sisyphus.errors import ConfigError
from sisyphus.graph import graph as sis_graph
from sisyphus.loader import ConfigCall, RecipeFinder, config_manager, parse_config_argument

RECIPE = """
from sisyphus import Job, Task


class Step(Job):
    def __init__(self, *values):
        self.out = self.output_path("out")
"""


@pytest.fixture
def write(workspace):
    """Write a file of the project."""

    def write(name, text):
        file = workspace / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
        importlib.invalidate_caches()

    write("recipe/lab/steps.py", RECIPE)
    write("recipe/lab/__init__.py", "")
    return write


def targets():
    return sorted(target.name for target in sis_graph.targets)


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("config/exp.py", ConfigCall("config.exp", "py", (), {})),
        ("./config/exp.py", ConfigCall("config.exp", "py", (), {})),
        ("config.exp.main", ConfigCall("config.exp", "main", (), {})),
        ("config/deep/exp.main", ConfigCall("config.deep.exp", "main", (), {})),
        ("recipe/pkg/exp.py", ConfigCall("pkg.exp", "py", (), {})),
        ("config.py", ConfigCall("config", "py", (), {})),
        ("config.exp.train()", ConfigCall("config.exp", "train", (), {})),
        (
            "config/exp.train(3, 'a.b/c(', [1], k={'x': None})",
            ConfigCall("config.exp", "train", (3, "a.b/c(", [1]), {"k": {"x": None}}),
        ),
    ],
)
def test_config_arguments(argument, call):
    assert parse_config_argument(argument) == call


def test_absolute_config_arguments(workspace):
    assert parse_config_argument(f"{workspace}/config/exp.py") == ConfigCall("config.exp", "py", (), {})


@pytest.mark.parametrize(
    "argument", ["", "config", "config/my-exp.py", "config..main", "../exp.py", "config/exp.2"]
)
def test_what_is_no_config_argument(argument):
    with pytest.raises(ConfigError, match=r"not a config: .*Give a file such as"):
        parse_config_argument(argument)


@pytest.mark.parametrize("arguments", ["(x)", "(1", "(1)(2)", "(f())", "(*[1])", "(**{})"])
def test_config_arguments_must_be_literals(arguments):
    with pytest.raises(ConfigError, match=r"arguments of the config .* must be Python literals"):
        parse_config_argument("config.exp.main" + arguments)


def test_a_config_registers_its_outputs(write, caplog):
    write(
        "config/exp.py",
        """
        from sisyphus import *
        from recipe.lab.steps import Step
        import lab.steps

        def py():
            assert lab.steps.Step(1).job_id() == Step(1).job_id()
            tk.register_output("py", Step(1).out)

        def main(number, name="b"):
            tk.register_output(f"main {number} {name}", Step(number, name).out)
        """,
    )
    with caplog.at_level("INFO"):
        config_manager.load_configs(["config/exp.py", "config.exp.main(2)", "config/exp.main(3, name='c')"])
    assert targets() == ["main 2 b", "main 3 c", "py"]
    assert "Loaded config: config/exp.main(3, name='c') (loaded module: config.exp)" in caplog.text
    assert [root.name for root in block.all_root_blocks][:2] == ["config/exp.py", "config.exp.main(2)"]
    assert sis_graph.output["py"].creator._sis_created_at == "config/exp.py:7 in py"  # the first one


def test_a_config_outside_of_the_config_directory(write):
    write(
        "recipe/lab/exp.py",
        "from sisyphus import tk, Path\ndef py():\n    tk.register_output('x', Path('x'))\n",
    )
    config_manager.load_configs("recipe/lab/exp.py")
    assert targets() == ["x"]
    assert "lab.exp" in sys.modules


def test_the_function_py_may_be_missing(write, caplog, monkeypatch):
    write("config/exp.py", "x = 1\n")
    config_manager.load_configs(["config/exp.py"])
    assert "No function 'py' in" in caplog.text
    caplog.clear()
    monkeypatch.setattr(gs, "WARNING_NO_FUNCTION_CALLED", False)
    config_manager.load_configs(["config/exp.py"])
    assert not caplog.text
    with pytest.raises(AttributeError, match=r"config 'config.exp.main': .* has no function 'main'"):
        config_manager.load_configs(["config.exp.main"])


def test_a_missing_config_is_named(write):
    write("config/exp.py", "import no_such_module_anywhere\n")
    with pytest.raises(ConfigError, match=r"config 'config/other.py': there is no module 'config.other'"):
        config_manager.load_configs(["config/other.py"])
    with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):  # not the config is missing
        config_manager.load_configs(["config/exp.py"])


def test_errors_of_configs_are_passed_on(write):
    write("config/exp.py", "def py():\n    raise KeyError('inside')\n")
    with pytest.raises(KeyError, match="inside"):
        config_manager.load_configs(["config/exp.py"])


def test_a_config_with_the_name_of_another_module(write):
    write("json.py", "def py():\n    pass\n")
    with pytest.raises(ConfigError, match=r"Python has another module 'json', .*Rename the config"):
        config_manager.load_configs(["json.py"])


def test_the_default_config(write, workspace):
    with pytest.raises(
        AssertionError, match=r"no config: neither the file config.py nor the directory config"
    ):
        config_manager.load_configs([])
    write(
        "config/__init__.py",
        "from sisyphus import tk, Path\ndef main():\n    tk.register_output('d', Path('d'))\n",
    )
    config_manager.load_configs([])
    assert targets() == ["d"]


def test_the_default_config_file(write):
    write("config.py", "from sisyphus import tk, Path\ndef py():\n    tk.register_output('f', Path('f'))\n")
    config_manager.load_configs()
    assert targets() == ["f"]


def test_the_import_hook_comes_last_and_once():
    RecipeFinder.install()
    assert sys.meta_path.count(RecipeFinder) == 1
    assert sys.meta_path.index(RecipeFinder) > 0


def test_where_modules_are_looked_for(write, workspace, monkeypatch, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "labx").mkdir()
    (elsewhere / "labx" / "tool.py").touch()
    (elsewhere / "hidden.py").touch()
    assert RecipeFinder.find_spec("lab").origin == str(workspace / "recipe/lab/__init__.py")
    assert RecipeFinder.find_spec("lab.steps").origin == str(workspace / "recipe/lab/steps.py")
    assert RecipeFinder.find_spec("recipe").submodule_search_locations == [str(workspace / "recipe")]
    assert RecipeFinder.find_spec("labx") is None
    monkeypatch.setattr(gs, "IMPORT_PATHS", [f"{elsewhere}/labx"])
    assert RecipeFinder.find_spec("labx").submodule_search_locations == [str(elsewhere / "labx")]
    assert RecipeFinder.find_spec("labx.tool").origin == str(elsewhere / "labx" / "tool.py")
    assert RecipeFinder.find_spec("hidden") is None  # only the package of that name
    assert RecipeFinder.find_spec("lab") is None


def test_recipes_are_found_from_another_directory(write, workspace, monkeypatch):
    os.mkdir("inside")
    monkeypatch.chdir("inside")  # as tasks do
    import lab.steps

    assert lab.steps.Step(1).job_id().startswith("lab/steps/Step.")


def test_reloading(write):
    import recipe.lab.steps

    write("recipe/lab/steps.py", RECIPE + "\nNEW = 1\n")
    tk.reload_recipes()
    assert recipe.lab.steps.NEW == 1
    assert tk.reload_module(recipe.lab.steps) is recipe.lab.steps


def test_how_often_python_looks_for_cycles_is_as_before_afterwards(write):
    before = gc.get_threshold()
    write("config/seen.py", "import gc\nSEEN = []\n\ndef py():\n    SEEN.append(gc.get_threshold()[0])\n")
    config_manager.load_configs("config/seen.py")
    assert sys.modules["config.seen"].SEEN[0] >= 50_000
    write("config/fails.py", "def py():\n    raise ValueError\n")
    with pytest.raises(ValueError):
        config_manager.load_configs("config/fails.py")
    assert gc.get_threshold() == before
