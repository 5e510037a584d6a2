"""The demo, timed stage by stage, in a process of its own, so that its memory is measured."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.sizes import Size
from benchmarks.stages import Asked
from benchmarks.tables import write_table
from guda_lightning.cli.main import main
from guda_lightning.counterfactuals import CounterfactualStore
from guda_lightning.posteriors import PosteriorStore
from guda_lightning.scores import ScoreTable
from guda_lightning.storage.runs import RunFolder

OPERATORS = ("guidance", "guided")


def run(asked: Asked) -> None:
    """Measure the demo."""
    run = RunFolder(asked.runs / "demo")
    measured = run.root / "demo.json"
    if not measured.is_file():
        child = f"from benchmarks.demo import demo, Size; demo({str(run.root)!r}, {asked.size!r})"
        environment = {"GOMP_SPINCOUNT": "10000", **os.environ}  # as the command `guda` does
        subprocess.run([sys.executable, "-c", child], check=True, env=environment)
    write_table(asked.docs, "stages", "make benchmark", _stages(run, json.loads(measured.read_text())))


def demo(root: str, size: Size) -> None:
    """What `guda run -c digits.yaml` does, timed stage by stage."""
    seconds = {
        "fit": _stage(root, size, "fit"),
        "sample": _stage(root, size, "sample"),
        "guide": _stage(root, size, "guide"),
        "unlearn": _stage(root, size, "unlearn", "-c", "unlearn/guided.yaml"),
        **{
            f"attribute ({operator})": _stage(
                root, size, "attribute", "-c", "attribute/elbo.yaml", "--operator", operator
            )
            for operator in OPERATORS
        },
    }
    start = time.perf_counter()
    tables = [str(RunFolder(Path(root)).table(operator, 0)) for operator in OPERATORS]
    if main(["report", root, "--scores", *tables]):
        raise SystemExit(1)
    seconds["report"] = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    (Path(root) / "demo.json").write_text(json.dumps({"seconds": seconds, "peak_gib": peak}))


def _stage(root: str, size: Size, name: str, *arguments: str) -> float:
    """Run one stage; its seconds."""
    start = time.perf_counter()
    options = (*size.everywhere, "--run", root, *arguments, *size.stages.get(name, ()))
    if main([name, "-c", "digits.yaml", *options]):
        raise SystemExit(1)
    return time.perf_counter() - start


def _stages(run: RunFolder, measured: dict[str, Any]) -> list[dict[str, object]]:
    full = json.loads((run.full / "record.json").read_text())
    made = CounterfactualStore(run.store).records()
    table = ScoreTable.load(run.table("guided", 0)).select(weighting="elbo")
    draws = int(table.to_pandas()["n_draws"].iloc[0])
    sampled = json.loads((run.queries / "record.json").read_text())["config"]
    evaluations = {
        "fit": full["network_evaluations"],
        "sample": sampled["num"] * sampled["steps"],
        "guide": sum(record.network_evaluations for record in PosteriorStore(run.store).records()),
        "unlearn": sum(record.network_evaluations for record in made),
        "attribute (guidance)": 2
        * len(table.queries)
        * draws,  # one pass for the full model, one for all groups
        "attribute (guided)": len(table.queries) * draws * len(table.groups),
        "report": 0,
    }
    seconds = measured["seconds"]
    rows: list[dict[str, object]] = [
        {"stage": name, "seconds": round(seconds[name]), "network evaluations": evaluations[name]}
        for name in seconds
    ]
    total = {
        "stage": f"all (peak memory {measured['peak_gib']:.2f} GiB)",
        "seconds": round(sum(seconds.values())),
        "network evaluations": sum(evaluations.values()),
    }
    return [*rows, total]
