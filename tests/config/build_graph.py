"""Load configs as a manager would and print what came of it as JSON; run in a process of its own."""

import json
import sys
import time

started = time.process_time()  # of this process: a busy machine is no slow config

from sisyphus.loader import config_manager  # noqa: E402  the import is part of the time
from sisyphus.toolkit import sis_graph  # noqa: E402

config_manager.load_configs(sys.argv[1:])
jobs = list(sis_graph.jobs())
seconds = time.process_time() - started
heavy = {"torch", "transformers", "datasets", "evaluate", "numpy", "matplotlib"}
print(
    json.dumps(
        {
            "ids": sorted(job.job_id() for job in jobs),
            "outputs": sorted(target.name for target in sis_graph.targets),
            "aliases": sorted(alias for job in jobs for alias in job.get_aliases() or ()),
            "heavy": sorted(heavy & set(sys.modules)),
            "seconds": seconds,
        }
    )
)
