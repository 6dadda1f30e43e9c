"""Settings: files, environment, defaults.

Each case is a process of its own, because settings are read at import.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from sisyphus import gs


@pytest.fixture
def read(tmp_path):
    """Import the settings in a new process; returns values of expressions, and what was logged."""

    def read(*expressions, **environment):
        program = (
            "import json, logging, sys; logging.basicConfig(format='%(message)s')\n"
            + "from sisyphus import gs\n"
            + f"print(json.dumps([{', '.join(expressions)}]))"
        )
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SIS_")}
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env={**kept, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), done.stderr

    return read


def test_a_settings_file_uses_and_changes_defaults(read, tmp_path):
    (tmp_path / "settings.py").write_text(
        "WORK_DIR = 'somewhere'\n"
        "DEFAULT_ENVIRONMENT_SET['PATH'] += ':/x'\n"
        "MINE = [WAIT_PERIOD_CACHE * 2]\n"
        "def engine():\n    return MINE\n"
        "def check_engine_limits(current_rqmt, task):\n    return {'limited': True}\n"
    )
    values, _ = read(
        "gs.WORK_DIR",
        "gs.DEFAULT_ENVIRONMENT_SET['PATH'][-3:]",
        "gs.MINE",
        "gs.engine()",
        "gs.check_engine_limits({}, None)",
    )
    assert values == ["somewhere", ":/x", [40], [40], {"limited": True}]


def test_several_settings_files_in_order(read, tmp_path):
    (tmp_path / "a.py").write_text("X = 1\nY = 1\n")
    (tmp_path / "b.py").write_text("Y = Y + X\n")
    values, _ = read("gs.X", "gs.Y", "gs.GLOBAL_SETTINGS_FILE_CONTENT", SIS_GLOBAL_SETTINGS_FILE="a.py:b.py")
    assert values[:2] == [1, 2]
    assert values[2] == (
        "##### Settings file: a.py #####\nX = 1\nY = 1\n\n"
        "##### Settings file: b.py #####\nY = Y + X\n\n"
        "##### Settings from environment #####\nGLOBAL_SETTINGS_FILE = 'a.py:b.py'\n"
    )


def test_no_settings_file(read):
    _, log = read("1", SIS_GLOBAL_SETTINGS_FILE="")
    assert log == ""
    _, log = read("1", SIS_GLOBAL_SETTINGS_FILE="missing.py")
    assert "Settings file does not exist" in log
    assert "missing.py" in log


def test_the_environment_comes_last(read, tmp_path):
    (tmp_path / "settings.py").write_text("WORK_DIR = 'from the file'\n")
    values, _ = read(
        "gs.WORK_DIR",
        "gs.WAIT_PERIOD_CACHE",
        "gs.CLEAR_ERROR",
        "gs.IMPORT_PATHS",
        "gs.OWN",
        "gs.ENVIRONMENT_SETTINGS['WAIT_PERIOD_CACHE']",
        SIS_WORK_DIR="not a literal",
        SIS_WAIT_PERIOD_CACHE="0.5",
        SIS_CLEAR_ERROR="True",
        SIS_IMPORT_PATHS="config:recipe/",
        SIS_OWN="{'a': 1}",
    )
    assert values == ["not a literal", 0.5, True, ["config", "recipe/"], {"a": 1}, 0.5]


def test_import_paths_may_be_a_literal(read):
    values, _ = read("gs.IMPORT_PATHS", SIS_IMPORT_PATHS="['a', 'b/']")
    assert values == [["a", "b/"]]


def test_an_error_in_a_settings_file_names_the_file(tmp_path):
    (tmp_path / "settings.py").write_text("x = 1 / 0\n")
    done = subprocess.run(
        [sys.executable, "-c", "import sisyphus"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("SIS_")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert f'File "{tmp_path}/settings.py", line 1' in done.stderr
    assert "ZeroDivisionError" in done.stderr


@pytest.mark.parametrize(
    ("argv0", "command"),
    [
        ("/usr/bin/sis", ["/usr/bin/sis"]),
        ("./sisyphus", ["./sisyphus"]),
        ("-m", ["-m", "sisyphus"]),
        ("my_experiment.py", ["-m", "sisyphus"]),
    ],
)
def test_how_workers_are_started(argv0, command, monkeypatch):
    monkeypatch.setattr(sys, "argv", [argv0])
    assert gs._sis_command() == [sys.executable, *command]


def test_the_names_that_others_use_are_there():
    """All settings of upstream, so that settings files and recipes find them."""
    names = """
        JOB_USE_TAGS_IN_PATH TEAM_SHARE_DIR JOB_AUTO_CLEANUP JOB_CLEANER_INTERVAL JOB_CLEANER_WORKER
        JOB_CLEANUP_KEEP_WORK JOB_CLEANUP_KEEP_INPUT JOB_DEFAULT_KEEP_VALUE CLEANER_PRINT_ALIAS
        GRAPH_WORKER MANAGER_SUBMIT_WORKER JOB_MAX_NUMBER_OF_LOCKS MAX_SUBMIT_RETRIES SIS_HASH
        IMPORT_PATHS WORK_DIR ALIAS_DIR OUTPUT_DIR CONFIG_FILE_DEFAULT CONFIG_FUNCTION_DEFAULT
        ALIAS_AND_OUTPUT_SUBDIR SHOW_JOB_TARGETS INCLUDE_CREATOR_STATE WAIT_PERIOD_JOB_FS_SYNC
        WAIT_PERIOD_BETWEEN_CHECKS WAIT_PERIOD_CACHE WAIT_PERIOD_SSH_TIMEOUT WAIT_PERIOD_QSTAT_PARSING
        WAIT_PERIOD_HTTP_RETRY_BIND WAIT_PERIOD_JOB_CLEANUP WAIT_PERIOD_MTIME_OF_INPUTS
        WAIT_PERIOD_FOR_INPUTS_AVAILABLE TASK_INPUTS_MUST_BE_AVAILABLE CLEAR_ERROR PRINT_ERROR
        PRINT_ERROR_TASKS PRINT_ERROR_LINES PRINT_HOLD PRINT_STALE_STATE_OVERVIEW_PERIOD
        PRINT_OLD_LOG_FILE_RUNNING FINISHED_LOG SIS_COMMAND PLOGGING_INTERVAL PLOGGING_QUIET
        PLOGGING_MIN_CHANGE PLOGGING_UPDATE_FILE_PERIOD FILESYSTEM_CACHE_TIME USE_VERBOSE_TRACEBACK
        VERBOSE_TRACEBACK_TYPE USE_SIGNAL_HANDLERS AUTO_SET_JOB_INIT_ATTRIBUTES CLEANUP_ENVIRONMENT
        DEFAULT_ENVIRONMENT_KEEP DEFAULT_ENVIRONMENT_SET TMP_PREFIX VIS_RELATIVE_MERGE_THRESHOLD
        VIS_ABSOLUTE_MERGE_THRESHOLD VIS_TIMEOUT VIS_MAX_NODES_PER_VIEW SHOW_VIS_NAME_IN_MANAGER
        JOB_ADD_STACKTRACE_WITH_DEPTH JOB_ADD_STACKTRACE_MAX_COUNT SKIP_IS_FINISHED_TIMEOUT
        CACHE_FINISHED_RESULTS CACHE_FINISHED_RESULTS_PATH CACHE_FINISHED_RESULTS_MAX_SIZE
        WARNING_NO_FUNCTION_CALLED WARNING_ABSPATH ENGINE_NOT_SETUP_WARNING DELAYED_CHECK_FOR_WORKER
        LEGACY_PATH_CONVERSION LEGACY_VARIABLE_CONVERSION RAISE_VARIABLE_NOT_SET_EXCEPTION
        MEMORY_PROFILE_LOG USE_UI ENVIRONMENT_SETTINGS_PREFIX JOB_OUTPUT JOB_INPUT JOB_LOG
        JOB_LOG_ENGINE JOB_SAVE JOB_WORK_DIR JOB_FINISHED_MARKER JOB_FINISHED_ARCHIVE JOB_INFO
        ENGINE_LOG ENGINE_SUBMIT PLOGGING_FILE BASE_DIR CONFIG_PREFIX RECIPE_PREFIX
        GLOBAL_SETTINGS_FILE_DEFAULT CMD_WORKER TEST_DIR SISYPHUS_LOGO active_engine
        ENVIRONMENT_SETTINGS GLOBAL_SETTINGS_FILE_CONTENT engine worker_wrapper on_job_failure
        on_job_finished update_engine_rqmt check_engine_limits file_caching
    """
    assert [name for name in names.split() if not hasattr(gs, name)] == []


def test_defaults_that_do_nothing(read):
    values, log = read(
        "gs.worker_wrapper(None, 'run', ['call'])",
        "gs.on_job_failure(None)",
        "gs.on_job_finished(None)",
        "gs.check_engine_limits({'mem': 1}, None)",
        "gs.file_caching('/a')",
        SIS_GLOBAL_SETTINGS_FILE="",
    )
    assert values == [["call"], None, None, {"mem": 1}, "/a"]
    assert log == ""
