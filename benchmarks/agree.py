"""Every method of the product against the oracle: agreement, and cost as a share of the oracle's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from benchmarks.stages import Bench
from guda_lightning.cli import main
from guda_lightning.counterfactuals import CounterfactualStore

DISTILL = ("--objective.init_args.preserve", "distill")
METHODS: Mapping[str, Sequence[str]] = {
    "retrack": ("-c", "unlearn/retrack.yaml"),
    "retrack_distill": ("-c", "unlearn/retrack.yaml", *DISTILL),
    "zero_target": ("-c", "unlearn/zero_target.yaml"),
    "zero_target_distill": ("-c", "unlearn/zero_target.yaml", *DISTILL),
    "finetune": ("-c", "unlearn/finetune.yaml"),
    "neggrad": ("-c", "unlearn/neggrad.yaml"),
}
SHOWN = ("top1", "ndcg@3", "spearman")


def score_all(bench: Bench, methods: Sequence[str] = tuple(METHODS)) -> None:
    """Unlearn every group by every method, score, compare."""
    for method in methods:
        bench.stage("unlearn", *METHODS[method], "--trainer.callbacks", "[]", label=f"unlearn {method}")
        scored = ("-c", "attribute/elbo.yaml", "--operator", method)
        bench.stage("attribute", *scored, label=f"attribute {method}")
    bench.stage("attribute", "-c", "attribute/similarity.yaml", label="attribute similarity")
    if code := main(["evaluate", str(bench.run.root)]):
        raise SystemExit(code)


def table(bench: Bench, seeds: int) -> list[dict[str, object]]:
    """One row per method: cost, its share of one oracle seed's, and agreement with the mean of all oracle seeds."""
    found = pd.read_parquet(bench.run.evaluation / "metrics.parquet")
    found = found[found.noise == "all draws"]
    records = CounterfactualStore(bench.run.store).records()
    oracle = sum(bench.seconds(f"retrain {s}", f"attribute retrain {s}") for s in range(seeds)) / seeds
    rows = []
    for name in found.method.unique():
        if name == "oracle":
            cost, operator, share = oracle, "retrain", seeds
        else:
            operator, share = name.partition("-")[0], 1
            cost = bench.seconds(f"unlearn {operator}", f"attribute {operator}")
        made = sum(r.network_evaluations for r in records if r.operator == operator) // share
        row: dict[str, object] = {
            "method": "another oracle seed" if name == "oracle" else operator,
            "core seconds": f"{cost:.0f}",
            "oracle / method": f"{oracle / cost:.0f}",
            "training evaluations": f"{made:,}",
        }
        for weighting in ("elbo", "uniform"):
            for metric in SHOWN:
                row[f"{metric} {weighting}"] = _cell(found, name, weighting, metric)
        rows.append(row)
    return rows


def _cell(found: pd.DataFrame, method: str, weighting: str, metric: str) -> str:
    """Against the other oracle seeds, the yardstick that an oracle seed faces too, and against the mean of all."""
    chosen = found[(found.method == method) & (found.weighting == weighting) & (found.metric == metric)]
    cells = {row.yardstick: f"{row.value:.3f} [{row.low:.2f}, {row.high:.2f}]" for row in chosen.itertuples()}
    others, everyone = cells.get("other seeds"), cells.get("all seeds")
    return " / ".join(cell for cell in (others, everyone) if cell)
