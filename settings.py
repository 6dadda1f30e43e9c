"""Where and how jobs run. Read by our manager and by upstream Sisyphus alike; all names: sisyphus/global_settings.py.

On a Slurm cluster, return an EngineSelector of two engines instead: ``short`` (a LocalEngine, for jobs that take seconds)
and ``long`` (SimpleLinuxUtilityForResourceManagementEngine(default_rqmt={"cpu": 1, "mem": 4, "time": 1})).
"""

import os
from pathlib import Path


def engine():
    """Run jobs on this machine, on all of its cpus and GPUs; a job sees only the GPUs that it asks for."""
    from sisyphus.localengine import LocalEngine

    gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
    devices = ",".join(str(index) for index in range(gpus))
    return LocalEngine(cpus=os.cpu_count() or 1, gpus=gpus, available_gpus=devices)


# Jobs start from an empty environment, so that results do not depend on a shell's. These pass through: where downloads
# are kept, whether the Hub may be asked, where local data and models lie.
DEFAULT_ENVIRONMENT_KEEP |= {  # noqa: F821 - the defaults are there when this file is read
    *("HF_HOME", "HF_TOKEN", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HTTPS_PROXY", "SSL_CERT_FILE"),
    *("MERGING_DATA", "MERGING_BASE_MODEL", "MERGING_CACHE"),
}
# The default OMP_NUM_THREADS and MKL_NUM_THREADS, 1, stand for "as many as the job asks cpus for" in our manager; a text
# here ("4") is taken as it is, and upstream always takes what stands here.
DEFAULT_ENVIRONMENT_SET |= {"TOKENIZERS_PARALLELISM": "false"}  # noqa: F821
