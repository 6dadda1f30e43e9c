"""Where and how jobs run; for our manager and upstream Sisyphus. All names: sisyphus/global_settings.py.

On a Slurm cluster, let engine() return an EngineSelector of two engines instead: ``short`` (a LocalEngine,
for jobs that take seconds) and ``long`` (SimpleLinuxUtilityForResourceManagementEngine).
"""

import os
from pathlib import Path

CPUS = os.cpu_count() or 1
MEM_GB = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3


def engine():
    """Share this machine among the jobs; a job sees only the GPUs that it asks for."""
    from sisyphus.localengine import LocalEngine

    every_gpu = [str(index) for index in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]
    gpus = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(every_gpu)).split(",") if name]
    return LocalEngine(cpus=CPUS, gpus=len(gpus), available_gpus=",".join(gpus), mem=MEM_GB)


def check_engine_limits(current_rqmt, task):
    """On a machine with few cpus jobs take longer, but they run."""
    return {**current_rqmt, "cpu": min(current_rqmt.get("cpu", 1), CPUS)}


# Jobs start from an empty environment, so that results do not depend on a shell's. These pass through: where
# downloads are kept, whether the Hub may be asked, where local data and models lie.
DEFAULT_ENVIRONMENT_KEEP |= {  # noqa: F821 - the defaults are there when this file is read
    *("HF_HOME", "HF_TOKEN", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HTTPS_PROXY", "SSL_CERT_FILE"),
    *("MERGING_DATA", "MERGING_BASE_MODEL", "MERGING_CACHE"),
}
# The default OMP_NUM_THREADS and MKL_NUM_THREADS, 1, stand for "as many as the job asks cpus for" in our
# manager; a text here ("4") is taken as it is, and upstream always takes what stands here.
DEFAULT_ENVIRONMENT_SET |= {"TOKENIZERS_PARALLELISM": "false"}  # noqa: F821

# Most jobs import these, which takes seconds: our manager's fork server imports them once.
FORK_SERVER_PRELOAD = ["torch", "transformers.trainer"]
