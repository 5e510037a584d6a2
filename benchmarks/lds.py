"""The linear datamodelling score of every method on the digits, beside that of retraining itself."""

from __future__ import annotations

from benchmarks import agree, oracles
from benchmarks.methods import ELBO, METHODS
from benchmarks.stages import Asked, Bench
from benchmarks.tables import write_table
from guda_lightning.cli.main import main
from guda_lightning.counterfactuals import RETRAIN
from guda_lightning.evaluation.lds import ALL_SEEDS, OTHER_SEEDS
from guda_lightning.evaluation.subsets import SubsetEvaluation
from guda_lightning.report.lds_text import LABELS

WEIGHTING = "uniform"  # which methods by gradients have, too
NOTES = (
    "Weighting `uniform`; by the first column. LDS: Spearman's correlation, over {subsets} models retrained "
    "without a random half of the groups, of the sums of a method's scores with the mean of what these "
    "models lose by {seeds} seeds; mean over the {queries} queries of the yardstick, 95 % intervals over "
    "queries, subsets and seeds. Other seeds: each is held out in turn, and all are compared with the mean "
    "of the others."
)


def run(asked: Asked) -> None:
    """One row a method, and one for the oracle's seeds."""
    bench = oracles.digits(asked)
    retrain(asked, bench)
    agree.score(bench, [name for name in asked.methods(METHODS) if METHODS[name].fits("digits")])
    if code := main(["evaluate", str(bench.run.root), "--lds"]):
        raise SystemExit(code)
    found = SubsetEvaluation.load(bench.run.evaluation)
    record = found.record
    sizes = {"subsets": len(record["subsets"]), "seeds": len(record["oracle_seeds"])}
    notes = NOTES.format(queries=record["queries"], **sizes)
    write_table(asked.docs, "lds", asked.command("lds"), table(found), notes)


def retrain(asked: Asked, bench: Bench) -> None:
    """Models of random halves of the groups, scored."""
    of, numbers = ("--subsets", str(asked.size.subsets)), ",".join(map(str, seeds(asked)))
    bench.stage("retrain", *of, "--seeds", numbers, label="retrain subsets")
    scored = (*ELBO, RETRAIN, *of, "--seed", numbers)
    bench.stage("attribute", *scored, label="attribute subsets")


def seeds(asked: Asked) -> list[int]:
    """Those of these models."""
    return list(range(asked.seeds or 2))


def table(found: SubsetEvaluation) -> list[dict[str, object]]:
    """A row a method, the best one first."""
    chosen = found.lds[found.lds.weighting == WEIGHTING]
    rows = {
        (row.method, row.yardstick): f"{row.value:.3f} [{row.low:.2f}, {row.high:.2f}]"
        for row in chosen.sort_values(["yardstick", "value"], ascending=[True, False]).itertuples()
    }
    return [
        {"method": LABELS.get(name, name.replace("-0", "", 1))}
        | {yardstick: rows.get((name, yardstick), "") for yardstick in (ALL_SEEDS, OTHER_SEEDS)}
        for name in dict.fromkeys(name for name, _ in rows)
    ]
