"""The demo, timed; then every objective on its full model, against the digit that a classifier reads.

The full path runs in a process of its own, so that its memory is measured. The other objectives unlearn the same
full model and score the same queries. All of it resumes: stages that are complete are skipped.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

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
METHODS = ("retrack", "retrack_distill", "zero_target", "zero_target_distill", "finetune")


def run() -> None:
    """Measure the demo and the objectives."""
    demo = RUN.root / "demo.json"
    if not demo.is_file():
        start = time.perf_counter()
        command = [sys.executable, "-m", "guda_lightning", "run", "-c", "digits.yaml", "--run", str(RUN.root)]
        subprocess.run(command, check=True)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        demo.write_text(json.dumps({"seconds": time.perf_counter() - start, "peak_gib": peak}))
    for method in METHODS[1:]:
        objective, _, preserve = method.partition("_distill")
        flags = ["--objective.init_args.preserve", "distill"] if method.endswith("_distill") else []
        shared = ["-c", "digits.yaml", "--run", str(RUN.root)]
        for stage in (
            ["unlearn", *shared, "-c", f"unlearn/{objective}.yaml", *flags],
            ["attribute", *shared, "-c", "attribute/elbo.yaml", "--operator", method],
        ):
            if main(stage):
                raise SystemExit(1)
    write_table("stages", "make benchmark", _stages(json.loads(demo.read_text())))
    write_table("objectives", "make benchmark", _objectives())


def _stages(demo: dict[str, float]) -> list[dict[str, object]]:
    full = json.loads((RUN.full / "record.json").read_text())
    made = [r for r in CounterfactualStore(RUN.store).records() if r.operator == "retrack"]
    table = ScoreTable.load(RUN.table("retrack", 0)).select(weighting="elbo")
    draws = int(table.to_pandas()["n_draws"].iloc[0])
    sampled = json.loads((RUN.queries / "record.json").read_text())["config"]
    return [
        {"stage": "fit", "seconds": round(full["seconds"]), "network evaluations": full["network_evaluations"]},
        {"stage": "sample", "seconds": "", "network evaluations": sampled["num"] * sampled["steps"]},
        {
            "stage": "unlearn, 10 groups",
            "seconds": round(sum(r.seconds for r in made)),
            "network evaluations": sum(r.network_evaluations for r in made),
        },
        {
            "stage": "attribute",
            "seconds": "",
            "network evaluations": len(table.queries) * draws * (len(table.groups) + 1),
        },
        {
            "stage": f"the whole command (peak memory {demo['peak_gib']:.2f} GiB)",
            "seconds": round(demo["seconds"]),
            "network evaluations": "",
        },
    ]


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
