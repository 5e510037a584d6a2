"""λ of influence functions, chosen by LDS on queries that no other table shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import figures, oracles
from benchmarks import lds as lds_table
from benchmarks.methods import METHODS
from benchmarks.stages import Asked, Bench
from benchmarks.tables import write_table
from guda_lightning.counterfactuals import RETRAIN, CounterfactualStore
from guda_lightning.evaluation.bootstrap import interval, resampled_means
from guda_lightning.functional.lds import lds, predicted_losses
from guda_lightning.scores import ScoreTable

DAMPED = ("trak", "dtrak", "das", "relatif", "ekfac")  # methods that have a λ
DAMPINGS = (1e-2, 1e-1, 1.0, 10.0)  # of the mean eigenvalue
QUERIES, SEED = 64, 1  # another one than the yardstick's queries have
LEVEL, RESAMPLES = 0.95, 2000
NOTES = (
    "λ of `(H + λ)⁻¹`, relative to the mean eigenvalue of H. LDS: Spearman's correlation, over {subsets} "
    "models retrained without a random half of the groups, of what a method predicts (the sum of its "
    "scores of the groups that are left out) with the mean of {seeds} seeds, under `uniform`; mean over "
    "{queries} queries that were drawn with another seed than those of the yardstick, with 95 % intervals "
    "over them. Nothing but λ is chosen. {own}"
)
OWN = "One seed predicts another with LDS {value:.2f}."


def run(asked: Asked) -> None:
    """One curve a method, and the λ at its top."""
    methods = asked.methods(DAMPED)
    bench = calibration(asked)
    names, measured = subsets(asked, bench)
    own = None if len(measured) < 2 else float(lds(measured[0], measured[1:].mean(dim=0)).mean())
    rows: list[dict[str, object]] = []
    points: list[dict[str, object]] = []
    for method in methods:
        found = dict(curve(bench, method, names, measured.mean(dim=0), DAMPINGS[: asked.size.kinds]))
        best = max(found, key=lambda damping: found[damping][0])
        for damping, (value, low, high) in found.items():
            shown = f"{value:.3f} [{low:.2f}, {high:.2f}]"
            told = {"method": method, "λ": f"{damping:g}", "LDS": shown}
            rows.append({**told, "chosen": "yes" if damping == best else ""})
            point = {
                "x": damping,
                "method": method,
                "metric": "LDS",
                "value": value,
                "low": low,
                "high": high,
            }
            points.append({**point, "oracle": own})
    seeds, queries, count = measured.shape
    said = "" if own is None else OWN.format(value=own)
    notes = NOTES.format(subsets=count, seeds=seeds, queries=queries, own=said).rstrip()
    write_table(asked.docs, "dampings", asked.command("dampings"), rows, notes)
    below = "with 95 % intervals over queries" + ("" if own is None else "; dashed: one seed, of another")
    figures.lines(asked.docs, points, "λ / mean eigenvalue", "dampings", "Which λ predicts retraining", below)


def calibration(asked: Asked) -> Bench:
    """The full model of the digits in a run folder of its own, with queries of its own."""
    bench = oracles.digits(asked).beside(asked.runs / "calibration")
    bench.stage("sample", "--num", str(QUERIES), "--seed", str(SEED))
    return bench


def subsets(asked: Asked, bench: Bench) -> tuple[Sequence[str], Tensor]:
    """What retrained models lose without halves of the groups.

    Returns:
        Names of the removed groups, such as ``1+4``, and losses ``[seeds, queries, subsets]``.
    """
    digits, seeds = oracles.digits(asked), lds_table.seeds(asked)
    lds_table.retrain(asked, digits)
    store = digits.run.store
    names = retrained(store, seeds)
    options = "--attributor.init_args."
    for seed in seeds:
        scored = ("--attributor", "guda_lightning.attribution.CounterfactualAttributor")
        read = (f"{options}store", str(store), f"{options}operator", RETRAIN, f"{options}seed", str(seed))
        which = (f"{options}groups", f"[{', '.join(names)}]", "--name", "subsets")
        bench.stage("attribute", *scored, *read, *which, label=f"attribute subsets {seed}")
    tables = [ScoreTable.load(bench.run.table(RETRAIN, seed, "subsets")) for seed in seeds]
    return names, torch.stack([table.select(weighting="uniform").matrix() for table in tables])


def retrained(store: Path, seeds: Sequence[int]) -> list[str]:
    """The subsets of several groups that a store has models without, of every one of these seeds.

    Raises:
        SystemExit: There are too few for a correlation.
    """
    records = [record for record in CounterfactualStore(store).records() if record.operator == RETRAIN]
    found = [{record.key.name for record in records if record.seed == seed} for seed in seeds]
    names = sorted(name for name in set.intersection(*found) if "+" in name)
    if len(names) < 3:
        raise SystemExit(f"{store} has {len(names)} subsets of the seeds {seeds}: LDS needs at least 3")
    return names


def curve(
    bench: Bench, method: str, names: Sequence[str], measured: Tensor, dampings: Sequence[float]
) -> Iterator[tuple[float, tuple[float, float, float]]]:
    """LDS of a method by its λ: value, low and high end.

    Args:
        bench: Whose queries are scored.
        method: Name.
        names: Of the subsets.
        measured: ``[queries, subsets]``.
        dampings: Each λ.
    """
    for damping in dampings:
        name = f"damping-{damping:g}"
        option = ("--attributor.init_args.damping", str(damping), *bench.size.damped, "--name", name)
        bench.stage("attribute", *METHODS[method].scored, *option, label=f"attribute {method} {name}")
        table = ScoreTable.load(bench.run.table(method, 0, name))
        removed = torch.tensor([[group in left.split("+") for group in table.groups] for left in names])
        scores = table.select(weighting=table.weightings[0]).matrix()
        found = lds(predicted_losses(scores, removed), measured)
        low, high = interval(resampled_means(found[:, None], RESAMPLES, seed=0), LEVEL)
        yield damping, (float(found.mean()), float(low), float(high))
