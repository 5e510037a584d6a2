"""What guidance gains from other classifiers, beside the cost of the full model's own training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from benchmarks import oracles
from benchmarks.stages import Asked, Bench
from benchmarks.tables import with_interval, write_table
from guda_lightning.cli.main import main
from guda_lightning.types import Weighting

PLANS: Mapping[str, Sequence[str]] = {
    "convolutions 16, 32": (),
    "convolutions 16, 32, at most 500 steps": ("--classifier.steps", "500"),
    "dense": ("--classifier.channels", "[]"),
    "dense, 512 wide": ("--classifier.channels", "[]", "--classifier.width", "512"),
    "dense, nothing held out": ("--classifier.channels", "[]", "--classifier.held_out", "0"),
}
KIND = "classifier"  # alone, not the mixture
SHOWN: tuple[tuple[str, Weighting], ...] = (
    ("top1", "elbo"),
    ("top1", "uniform"),
    ("ndcg@3", "uniform"),
    ("top1", "middle"),
)


def run(asked: Asked) -> None:
    """Train several classifiers on the digits and, if they are given, on images of CIFAR-10."""
    benches = {"digits": oracles.digits(asked)}
    if asked.cifar10 is not None:
        benches["CIFAR-10 8 x 8"] = oracles.cifar10(asked)
    rows = [row for name, bench in benches.items() for row in _rows(name, bench)]
    notes = (
        "Seconds of one core to train the classifier, and their share of the full model's training. "
        "Agreement with the mean of the other oracle seeds, 95 % intervals."
    )
    write_table(asked.docs, "classifiers", asked.command("classifiers"), rows, notes)


def _rows(data: str, bench: Bench) -> list[dict[str, object]]:
    paths, cost = [], {}
    for name, options in list(PLANS.items())[: bench.size.kinds]:
        root = bench.run.root / "classifiers" / name.replace(" ", "-").replace(",", "")
        one = bench.beside(root)
        one.stage("guide", "--posterior", KIND, *options, label="guide")
        scored = ("-c", "attribute/elbo.yaml", "--operator", KIND, "--name", root.name)
        one.stage("attribute", *scored, "--queries", str(bench.run.queries), label="attribute")
        path = one.run.table(KIND, 0, bench.run.queries.name, root.name)
        paths.append(str(path))
        cost[path.stem] = name, one.seconds("guide")
    oracle = [str(bench.run.table("retrain", seed)) for seed in range(bench.seeds)]
    if code := main(["evaluate", str(bench.run.root), "--oracle", *oracle, "--scores", *paths]):
        raise SystemExit(code)
    found = pd.read_parquet(bench.run.evaluation / "metrics.parquet")
    found = found[(found.noise == "all draws") & (found.yardstick == "other seeds")]
    full, rows = bench.seconds("fit"), []
    for method in [*cost, "oracle"]:
        name, seconds = cost.get(method, ("another oracle seed", 0.0))
        row: dict[str, object] = {
            "data": data,
            "classifier": name,
            "core seconds": f"{seconds:.0f}" if seconds else "",
            "of the full model's": f"{seconds / full:.0%}" if seconds else "",
        }
        for metric, weighting in SHOWN:
            chosen = found[(found.method == method) & (found.weighting == weighting)]
            row[f"{metric} {weighting}"] = with_interval(chosen, metric)
        rows.append(row)
    return rows
