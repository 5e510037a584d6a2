"""How much memory ``guda attribute`` takes as the number of queries grows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.sizes import TOY
from benchmarks.stages import Asked, Bench
from benchmarks.tables import write_table
from guda_lightning.scores import ScoreTable
from guda_lightning.storage.files import write_atomic

SCORED = ("--operator", "retrack", "--groups", "0", "--scoring.strata", "2", "--scoring.draws", "1")
SCORED += ("--scoring.batch_size", "1024")
MEASURED = """\
import json, re, sys, time
from pathlib import Path
from guda_lightning.cli.main import main
if code := main(sys.argv[2:]):
    sys.exit(code)
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
Path(sys.argv[1]).write_text(json.dumps({"kib": int(peak[1]), "seconds": time.process_time()}))
"""


def run(asked: Asked) -> None:
    """Score more and more queries with a tiny model, each number in a process of its own."""
    bench = tiny(asked, "streaming")
    bench.stage("unlearn", "-c", "unlearn/retrack.yaml", "--groups", "0", "--steps", "2")
    first, rows = None, []
    for count in asked.size.streamed:
        found = _measured(bench, count)
        first = first or found
        rows.append(
            {
                "queries": f"{count:,}",
                "peak memory (MiB)": f"{found['kib'] / 1024:.0f}",
                "above the first row (MiB)": f"{(found['kib'] - first['kib']) / 1024:.0f}",
                "squared errors in all (MiB)": f"{found['errors'] / 2**20:.0f}",
                "score table (MiB)": f"{found['table'] / 2**20:.1f}",
                "core seconds": f"{found['seconds']:.0f}",
            }
        )
    notes = (
        "Images of 8 × 8, the full model and one counterfactual, two evaluations of each a query. Squared "
        "errors and the score table are files."
    )
    write_table(asked.docs, "streaming", asked.command("streaming"), rows, notes)


def tiny(asked: Asked, name: str) -> Bench:
    """A tiny full model, in a run folder of its own."""
    bench = Bench(
        *(asked.runs / name, "-c", "digits.yaml", *TOY.network),
        *("--trainer.max_steps", "8", "--trainer.enable_progress_bar", "false"),
        size=asked.size,
    )
    bench.stage("fit")
    return bench


def command(bench: Bench, queries: Path, peak: Path) -> list[str]:
    """A process that scores queries and writes how much memory it took."""
    options = [*bench.options, *bench.size.everywhere, "--run", bench.run.root, "--queries", queries]
    return list(map(str, [sys.executable, "-c", MEASURED, peak, "attribute", *options, *SCORED]))


def _measured(bench: Bench, count: int) -> dict[str, float]:
    """What scoring so many queries took, from a process that had nothing of it done."""
    result, queries = bench.run.root / f"{count}.json", bench.run.root / "random" / str(count)
    if result.is_file():
        return dict(json.loads(result.read_text()))
    draw(queries, count)
    shutil.rmtree(bench.run.scores, ignore_errors=True)
    peak = bench.run.root / "peak.json"
    subprocess.run(command(bench, queries, peak), check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    table = bench.run.table("retrack", 0, str(count))
    scored_queries = sum(len(part.queries) for part in ScoreTable.load_parts(table))
    if scored_queries != count:
        raise SystemExit(f"{table} has {scored_queries} of {count} queries")
    files = (path.stat().st_size for path in bench.run.errors.iterdir())
    found = {**json.loads(peak.read_text()), "errors": sum(files), "table": table.stat().st_size}
    write_atomic(result, json.dumps(found))
    return found


def draw(folder: Path, count: int) -> None:
    """Pictures of random bytes."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = random.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"query-{number:06d}.png")
