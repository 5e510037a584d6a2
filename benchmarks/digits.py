"""The demo, timed; then every objective on its full model, against the digit that a classifier reads.

The demo runs in a process of its own, so that its memory is measured. The other objectives unlearn the same
full model and score the same queries. All of it resumes: stages that are complete are skipped.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from benchmarks.tables import write_table
from guda_lightning.cli import main
from guda_lightning.counterfactuals import CounterfactualStore
from guda_lightning.data import load_queries
from guda_lightning.runs import RunFolder
from guda_lightning.scores import ScoreTable

RUN = RunFolder(Path("runs/benchmark-digits"))
MEASURED = RUN.root / "demo.json"
METHODS = ("retrack", "retrack_distill", "zero_target", "zero_target_distill", "finetune")


def run() -> None:
    """Measure the demo and the objectives."""
    if not MEASURED.is_file():
        # In a process of its own, so that its memory is measured; set up as the command `guda` is.
        child = "from benchmarks.digits import demo; demo()"
        subprocess.run(
            [sys.executable, "-c", child], check=True, env={"GOMP_SPINCOUNT": "10000", **os.environ}
        )
    for method in METHODS[1:]:
        objective = method.partition("_distill")[0]
        flags = ["--objective.init_args.preserve", "distill"] if method.endswith("_distill") else []
        _stage("unlearn", "-c", f"unlearn/{objective}.yaml", *flags)
        _stage("attribute", "-c", "attribute/elbo.yaml", "--operator", method)
    write_table("stages", "make benchmark", _stages(json.loads(MEASURED.read_text())))
    write_table("objectives", "make benchmark", _objectives())


def demo() -> None:
    """What `guda run -c digits.yaml` does, timed stage by stage."""
    seconds = {
        "fit": _stage("fit"),
        "sample": _stage("sample"),
        "unlearn": _stage("unlearn", "-c", "unlearn/retrack.yaml"),
        "attribute": _stage("attribute", "-c", "attribute/elbo.yaml"),
    }
    start = time.perf_counter()
    if main(["report", str(RUN.root)]):
        raise SystemExit(1)
    seconds["report"] = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    MEASURED.write_text(json.dumps({"seconds": seconds, "peak_gib": peak}))


def _stage(name: str, *arguments: str) -> float:
    """Run one stage; its seconds."""
    start = time.perf_counter()
    if main([name, "-c", "digits.yaml", "--run", str(RUN.root), *arguments]):
        raise SystemExit(1)
    return time.perf_counter() - start


def _stages(measured: dict[str, Any]) -> list[dict[str, object]]:
    full = json.loads((RUN.full / "record.json").read_text())
    made = [r for r in CounterfactualStore(RUN.store).records() if r.operator == "retrack"]
    table = ScoreTable.load(RUN.table("retrack", 0)).select(weighting="elbo")
    draws = int(table.to_pandas()["n_draws"].iloc[0])
    sampled = json.loads((RUN.queries / "record.json").read_text())["config"]
    evaluations = {
        "fit": full["network_evaluations"],
        "sample": sampled["num"] * sampled["steps"],
        "unlearn": sum(record.network_evaluations for record in made),
        "attribute": len(table.queries) * draws * (len(table.groups) + 1),
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


def _objectives() -> list[dict[str, object]]:
    """Share of queries whose top group is the digit that logistic regression reads."""
    digits = load_digits()
    classifier = LogisticRegression(max_iter=5000).fit(digits.data / 16, digits.target)
    queries = load_queries(RUN.queries, (1, 8, 8))
    read = torch.from_numpy(classifier.predict((queries.images.flatten(1).numpy() + 1) / 2))
    rows: list[dict[str, object]] = []
    for method in METHODS:
        table = ScoreTable.load(RUN.table(method, 0))
        made = [r for r in CounterfactualStore(RUN.store).records() if r.operator == method]
        row: dict[str, object] = {"objective": method}
        for weighting in ("elbo", "uniform"):
            matrix = table.select(weighting=weighting).matrix()
            names = torch.tensor([int(group) for group in table.groups])
            share = float((names[matrix.argmax(dim=1)] == read).double().mean())
            row[f"top group is the digit read ({weighting})"] = f"{share:.3f}"
        row["seconds, 10 groups"] = round(sum(r.seconds for r in made))
        row["network evaluations"] = sum(r.network_evaluations for r in made)
        rows.append(row)
    return rows
