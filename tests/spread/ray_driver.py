"""Starts Ray with two processors here, shows what is refused, and runs guda on it.

Ray warns of many things, and warnings are errors in tests: so this is a process of its own, with guda's
arguments.
"""

import os
import sys
from pathlib import Path

import ray

from guda_lightning.cli.main import main
from guda_lightning.errors import GudaError
from guda_lightning.spread import RayCluster, Task

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
ray.init(num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
nowhere = Path("/nowhere/run/spread/unlearn.yaml")
for executor in (RayCluster(num_cpus=2, num_gpus=1, resources={"fast": 0.5}), RayCluster(num_gpus=0)):
    try:
        executor.room()
        list(executor.run([Task("1", "unlearn", nowhere, (), nowhere.with_suffix(".log"), Path.cwd())]))
    except GudaError as error:
        print(f"refused: {error}", flush=True)
assert ray.is_initialized()  # by this process, whose affair it stays
sys.exit(main(sys.argv[1:]))
