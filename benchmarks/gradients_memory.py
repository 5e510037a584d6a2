"""How much memory attribution by stored gradients takes as the number of training samples grows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.stages import Asked
from benchmarks.tables import write_table
from guda_lightning.attribution.gradients.parts import Parts
from guda_lightning.attribution.gradients.projected import ProjectedInfluence, Shard
from guda_lightning.attribution.gradients.stored import SHARD
from guda_lightning.distributed.ranks import ALONE
from guda_lightning.storage.files import write_atomic

GROUPS, QUERIES, EVALUATIONS = 10, 16, 20
MEASURED = """\
import json, re, sys, time
from pathlib import Path
import torch
from benchmarks.gradients_memory import influence
torch.set_num_threads(1)
influence(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(json.dumps({"kib": int(peak[1]), "seconds": time.process_time()}))
"""
NOTES = (
    f"Random features through the Gram matrix, leverages and residuals, and scores of {GROUPS} groups for "
    f"{QUERIES} queries of {EVALUATIONS} evaluations. Stored features are files. Gradients are not in it; "
    "imports are, some hundred MiB."
)


def run(asked: Asked) -> None:
    """Stream more and more stored features, each number in a process of its own."""
    rows = []
    for count in asked.size.stored:
        folder = asked.runs / "gradients_memory" / f"{count}-{asked.size.dims}"
        found = _measured(folder, count, asked.size.dims)
        rows.append(
            {
                "training samples": f"{count:,}",
                "dimensions": f"{asked.size.dims:,}",
                "peak memory (MiB)": f"{found['kib'] / 1024:.0f}",
                "stored (MiB)": f"{4 * count * asked.size.dims / 2**20:.0f}",
                "core seconds": f"{found['seconds']:.0f}",
            }
        )
    write_table(asked.docs, "gradients-memory", asked.command("gradients_memory"), rows, NOTES)


def influence(folder: Path, count: int, dims: int) -> None:
    """Make the features, which is what an attributor does by its gradients, and score random queries."""
    parts = Parts(folder, {"random": [count, dims]})
    shards = {str(start): min(SHARD, count - start) for start in range(0, count, SHARD)}

    def drawn(name: str) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(int(name))
        features = torch.randn(shards[name], dims, generator=generator)
        return {"features": features, "errors": features[:, 0].square()}

    def stream() -> Iterator[Shard]:
        for name in shards:
            part = parts.load(name)
            yield part["features"], part["errors"]

    parts.make(list(shards), drawn, ALONE)
    members = torch.arange(count)[:, None] % GROUPS == torch.arange(GROUPS)
    found = ProjectedInfluence(stream, members, 1.0, residual=True)
    found.prepare()
    found(torch.randn(QUERIES, EVALUATIONS, dims, generator=torch.Generator().manual_seed(0)))


def _measured(folder: Path, count: int, dims: int) -> dict[str, float]:
    result = folder / "found.json"
    if not result.is_file():
        command = [sys.executable, "-c", MEASURED, str(folder), str(count), str(dims)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
        write_atomic(result, done.stdout)
    return dict(json.loads(result.read_text()))
