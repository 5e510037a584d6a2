"""Whether locality or the formula of the score makes nonparametric data attribution agree with retraining."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from benchmarks import oracles
from benchmarks.stages import Asked, Bench, unit
from benchmarks.tables import with_interval, write_table
from guda_lightning.cli.main import main

TIMESTEPS = (100, 300)  # of 1000
# Patches of a side, compared with patches at all places of a training image, or at their own.
WINDOWS: Mapping[str, Sequence[str]] = {
    "3, anywhere": ("--attributor.init_args.patch", "3"),
    "7, anywhere": ("--attributor.init_args.patch", "7"),
    "3, its own": ("--attributor.init_args.patch", "3", "--attributor.init_args.anywhere", "false"),
    "7, its own": ("--attributor.init_args.patch", "7", "--attributor.init_args.anywhere", "false"),
    "whole picture": ("--attributor.init_args.patch", "15", "--attributor.init_args.anywhere", "false"),
}
FORMULAS = {"posterior": "ρ", "density": "−log(1 − ρ)"}
SHOWN = (("top1", "uniform"), ("ndcg@3", "uniform"), ("top1", "middle"), ("ndcg@3", "middle"))
NOTES = (
    "Patches of so many pixels a side of the noised query, compared with those of training images anywhere "
    "or at its own place; t of 1000 timesteps. Seconds of one core for all queries, both formulas together. "
    "R² of the oracle's scores within queries, mean of all seeds. Agreement with "
)


def run(asked: Asked) -> None:
    """Compare windows, places, noise levels and both formulas on the digits."""
    bench = oracles.digits(asked)
    write_table(asked.docs, "nda", asked.command("nda"), rows(bench), notes(bench))


def notes(bench: Bench) -> str:
    """What the reader of the table should know."""
    of = "the mean of the other oracle seeds" if bench.seeds > 1 else "one oracle seed"
    return f"{NOTES}{of}, 95 % intervals."


def rows(bench: Bench) -> list[dict[str, object]]:
    """One row per window, noise level and formula; another oracle seed and pixel similarity beside them."""
    names = {}
    for t in TIMESTEPS[: bench.size.kinds]:
        for window, options in list(WINDOWS.items())[: bench.size.kinds]:
            name = f"t{t}-{window}".replace(", ", "-").replace(" ", "-")
            at = ("-c", "attribute/nda.yaml", "--attributor.init_args.timesteps", f"[{t}]", "--name", name)
            bench.stage("attribute", *at, *options, label=f"attribute nda {name}")
            names[bench.run.table("nda", 0, name).stem] = window, t, bench.seconds(f"attribute nda {name}")
    bench.stage("attribute", "-c", "attribute/similarity.yaml", label="attribute similarity")
    names["similarity-0"] = "similarity", "", bench.seconds("attribute similarity")
    oracle = [str(bench.run.table("retrain", seed)) for seed in range(bench.seeds)]
    scores = [str(bench.run.scores / f"{name}.parquet") for name in names]
    if code := main(["evaluate", str(bench.run.root), "--oracle", *oracle, "--scores", *scores]):
        raise SystemExit(code)
    sizes = pd.read_parquet(bench.run.evaluation / "magnitudes.parquet")
    sizes = sizes[(sizes.noise == "all draws") & (sizes.pooling == "within") & (sizes.quantity == "r2")]
    explained = sizes[sizes.weighting == "uniform"].set_index("method").value
    found = pd.read_parquet(bench.run.evaluation / "metrics.parquet")
    found = found[
        (found.noise == "all draws")
        & (found.yardstick == ("other seeds" if bench.seeds > 1 else "all seeds"))
    ]
    made = []
    for method in found.method.unique():
        table, _, formula = method.partition(" ")
        window, t, seconds = names.get(table, ("another oracle seed", "", None))
        row = {
            "window": window,
            "t": t,
            "score": FORMULAS.get(formula, ""),
            unit(): "" if seconds is None else f"{seconds:.0f}",
            "R² uniform": f"{explained[method]:.2f}" if method in explained else "",
        }
        for metric, weighting in SHOWN:
            chosen = found[(found.method == method) & (found.weighting == weighting)]
            row[f"{metric} {weighting}"] = with_interval(chosen, metric)
        made.append(row)
    return made
