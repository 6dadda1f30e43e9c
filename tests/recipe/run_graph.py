"""Run every job of a graph in this one process, in order; heavy imports are paid for once."""

import os
import sys
from pathlib import Path

from sisyphus.loader import config_manager
from sisyphus.toolkit import sis_graph

config_manager.load_configs(sys.argv[1:])
start = Path.cwd()
for job in list(sis_graph.jobs_sorted()):
    job._sis_setup_directory()
    os.chdir(job._sis_path("work"))
    job.run()
    os.chdir(start)
    assert job.info() is None or "left" in job.info()
    for output in job._sis_outputs.values():
        assert Path(output.get_path()).exists(), output
