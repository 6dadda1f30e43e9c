"""What can be imported, what that costs, and the recorded vectors."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sisyphus

VECTORS = Path(__file__).resolve().parents[2] / "../shared/vectors/sisyphus"

NAMES = {
    "job": "Job JobSingleton created_jobs job_finished",
    "job_path": "AbstractPath Path Variable VariableNotSet NoBackup",
    "delayed_ops": (
        "DelayedBase DelayedAdd DelayedSub DelayedMul DelayedTrueDiv DelayedFloorDiv DelayedMod "
        "DelayedPow DelayedRound DelayedGetItem DelayedFunctionV2 DelayedFormat DelayedReplace "
        "DelayedFunction DelayedFallback Delayed DelayedSlice DelayedJoin DelayedFunctionBase"
    ),
    "hash": "sis_hash_helper short_hash int_hash md5 get_object_state",
    "tools": (
        "extract_paths sis_hash try_get sh execute_in_dir cache_result str_to_GB str_to_hours "
        "hardlink_or_copy EnvironmentModifier finished_results_cache"
    ),
    "task": "Task",
    "block": "Block block sub_block set_root_block active_blocks all_root_blocks",
    "graph": "SISGraph OutputTarget OutputPath OutputCall OutputReport graph",
    "loader": "config_manager RecipeFinder",
    "async_workflow": "async_run async_gather async_context",
    "engine": "EngineBase EngineSelector DeferSubmission",
    "localengine": "LocalEngine",
    "simple_linux_utility_for_resource_management_engine": "SimpleLinuxUtilityForResourceManagementEngine",
    "son_of_grid_engine": "SonOfGridEngine",
    "load_sharing_facility_engine": "LoadSharingFacilityEngine",
    "aws_batch_engine": "AWSBatchEngine",
    "http_server": "object_to_html",
    "manager": "Manager JobCleaner create_aliases",
    "helper": "console",
    "__main__": "main",
    "toolkit": (
        "register_output register_report register_callback async_run async_gather async_context run "
        "setup_script_mode run_job submit_next_task setup_job_directory load_job find_job find_path "
        "job_info print_graph export_graph migrate_graph compare_graph replace_graph_objects "
        "import_work_directory remove_job_and_descendants start_manager cached_engine "
        "show_jobs_in_webserver dump load_file mktemp zipped sh extract_paths input_path is_path "
        "uncached_path bundle_to_str Path Variable AbstractPath Delayed setup_path RelPath Object Job "
        "block sub_block set_root_block cleaner config_manager sis_graph gs running_in_worker "
        "running_in_manager reload_recipes reload_module"
    ),
}


def test_the_star_gives_six_names():
    assert sorted(sisyphus.__all__) == ["Job", "Path", "Task", "gs", "setup_path", "tk"]


@pytest.mark.parametrize("module", NAMES)
def test_names_that_recipes_and_settings_import(module):
    imported = importlib.import_module(f"sisyphus.{module}")
    assert [name for name in NAMES[module].split() if not hasattr(imported, name)] == []


def test_unknown_names_of_the_toolkit():
    with pytest.raises(AttributeError, match="has no attribute 'register_job'"):
        sisyphus.tk.register_job  # noqa: B018


def test_importing_is_cheap(tmp_path):
    """Workers and managers start with this import: nothing heavy may creep in."""
    heavy = [
        "IPython",
        "asyncio",
        "dataclasses",
        "gzip",
        "inspect",
        "numpy",
        "pathlib",
        "pickle",
        "psutil",
        "rich",
    ]
    heavy += ["subprocess", "tarfile", "tempfile", "torch"]
    program = f"import sys, sisyphus; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "SIS_GLOBAL_SETTINGS_FILE": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(not VECTORS.is_dir(), reason="the recorded vectors are not beside this repository")
def test_recorded_vectors(tmp_path):
    done = subprocess.run(
        [sys.executable, "-B", str(VECTORS / "check.py")],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "322 agree, 0 differ" in done.stdout
