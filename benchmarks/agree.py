"""Every method of the product against the oracle: agreement, and cost as a share of the oracle's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import pandas as pd

from benchmarks import figures, oracles, yardstick
from benchmarks.stages import Asked, Bench, unit
from benchmarks.tables import with_interval, write_table
from guda_lightning.cli.main import main
from guda_lightning.evaluation.agreement import ORACLE
from guda_lightning.evaluation.result import Evaluation
from guda_lightning.report.agreement_table import ORACLE_LABEL
from guda_lightning.report.yardstick_text import COLUMNS, HEADS, method_rows
from guda_lightning.report.yardstick_text import with_interval as shown
from guda_lightning.types import Weighting

DISTILL = ("--objective.init_args.preserve", "distill")
ELBO = ("-c", "attribute/elbo.yaml", "--operator")


@dataclass(frozen=True)
class Method:
    """How a method scores.

    Attributes:
        scored: Options of ``guda attribute``.
        stage: What is run before, if anything is.
        made: Its options.
        needs: A method whose preparation is part of this one's.
    """

    scored: Sequence[str]
    stage: str = ""
    made: Sequence[str] = ()
    needs: str = ""


def _unlearned(config: str, *options: str, operator: str = "", needs: str = "") -> Method:
    quiet = ("--trainer.callbacks", "[]")
    scored = (*ELBO, operator or config)
    return Method(scored, "unlearn", ("-c", f"unlearn/{config}.yaml", *options, *quiet), needs)


# What is compared: one line each.
METHODS: Mapping[str, Method] = {
    "guidance": Method((*ELBO, "guidance"), "guide"),
    "retrack": _unlearned("retrack"),
    "similarity": Method(("-c", "attribute/similarity.yaml")),
    "guided": _unlearned("guided", needs="guidance"),
    "patch_kernel": Method((*ELBO, "patch_kernel"), needs="guidance"),
    "nda": Method(("-c", "attribute/nda.yaml")),
    "zero_target": _unlearned("zero_target"),
    "finetune": _unlearned("finetune"),
    "neggrad": _unlearned("neggrad"),
    "retrack_distill": _unlearned("retrack", *DISTILL, operator="retrack_distill"),
    "zero_target_distill": _unlearned("zero_target", *DISTILL, operator="zero_target_distill"),
}
SHOWN = ("top1", "ndcg@3")
FIFTY = "fifty"  # timesteps, one draw each
ONE = (
    "Weighting `uniform`. Agreement (top-1, NDCG@3) of each oracle seed with the mean of the others, and of "
    "every method with the same means; slope and R² of the oracle's scores as a line in the method's, within "
    "queries: slope 1 is the oracle's size. 95 % intervals over queries and seeds. Seconds of one core for "
    "all groups, preparation and scoring; those of the oracle are of one seed, on the machine of its card."
)
NOTES = (
    "Seconds of one core for ten groups, training and scoring of 160 queries × 100 evaluations, measured in "
    "one run; those of the oracle are of one seed. The full model's errors were kept and "
    "shared by all that unlearn or retrain; evaluations of guidance are of its classifier. Agreement with "
    "the mean of the other oracle seeds, each left out in turn, with 95 % intervals over queries and seeds."
)


def methods(asked: Asked) -> None:
    """Every method on every yardstick: one table, and one picture of agreement against cost."""
    rows: list[dict[str, object]] = []
    points: list[dict[str, object]] = []
    benches = {"digits": oracles.digits(asked)}
    if asked.cifar10 is not None:
        benches["CIFAR-10 8 x 8"] = oracles.cifar10(asked)
    for name, bench in benches.items():
        score_all(bench, list(METHODS)[: asked.size.kinds])
        evaluation = Evaluation.load(bench.run.evaluation)
        for row in method_rows(evaluation):
            name_of = row.method.replace("-0", "")  # what follows is a weighting of its own
            known = name_of.partition(" ")[0] in METHODS or name_of in (ORACLE_LABEL, "chance")
            if row.weighting != "uniform" or not known:
                continue  # such as tables of other evaluations
            cost, oracle = _cost(bench, row.method), _cost(bench, ORACLE) or 0.0
            rows.append(
                {
                    "data": name,
                    "method": name_of,
                    **{
                        HEADS.get(column, column): shown(column, row.numbers.get(column))
                        for column in COLUMNS
                    },
                    unit(): "" if cost is None else f"{cost:.0f}",
                    "oracle / method": "" if cost is None else f"{oracle / cost:.0f}",
                }
            )
            points += [
                {"data": name, "method": name_of, "cost": cost, "metric": metric}
                | dict(zip(("value", "low", "high"), row.numbers[metric], strict=True))
                for metric in SHOWN
            ]
    write_table(asked.docs, "methods", asked.command("methods"), rows, ONE)
    figures.costs(asked.docs, points, "methods", "Agreement with retraining, and what it costs", unit())


def digits(asked: Asked) -> None:
    """All objectives against the oracle seeds, and what makes those agree."""
    bench = oracles.digits(asked)
    score_all(bench, list(METHODS)[: asked.size.kinds])
    write_table(asked.docs, "digits", asked.command("digits"), table(bench), NOTES)
    draw_yardstick(asked, bench, "digits")


def guidance(asked: Asked) -> None:
    """One classifier for all groups, beside unlearning each."""
    bench = oracles.digits(asked)
    score_all(bench, ("guidance", "retrack", "guided"))
    write_table(asked.docs, "guidance", asked.command("guidance"), table(bench), NOTES)


def speed(asked: Asked) -> None:
    """The cheapest methods with as few evaluations as still rank well."""
    bench = oracles.digits(asked)
    tables = []
    for method in ("guidance", "retrack"):
        make(bench, method)
        few = ("--scoring.draws", "1", "--name", FIFTY)
        bench.stage("attribute", *METHODS[method].scored, *few, label=f"attribute {method} {FIFTY}")
        tables.append(str(bench.run.table(method, 0, FIFTY)))
    if code := main(["evaluate", str(bench.run.root), "--scores", *tables]):
        raise SystemExit(code)
    notes = NOTES.replace("100 evaluations", "50 timesteps, the oracle's of 100 evaluations")
    write_table(asked.docs, "speed", asked.command("speed"), table(bench, FIFTY), notes)


def cifar10(asked: Asked) -> None:
    """The main objectives against two oracle seeds, on real images."""
    bench = oracles.cifar10(asked)
    score_all(bench, ("guidance", "retrack", "guided"))
    write_table(asked.docs, "cifar10", asked.command("cifar10"), table(bench), NOTES)
    draw_yardstick(asked, bench, "cifar10")


def draw_yardstick(asked: Asked, bench: Bench, name: str) -> None:
    """Draw how well two oracle seeds agree under each recipe."""
    rows = [row for row in yardstick.run(bench) if row["metric"] == "top1"]
    figures.dots(
        asked.docs,
        rows,
        f"yardstick_{name}",
        "What makes the oracle a yardstick",
        f"{name}: top-1 agreement of two oracle seeds, {asked.size.queries} queries",
    )


def score_all(bench: Bench, names: Sequence[str]) -> None:
    """Score every method and pixel similarity, and compare them with the oracle."""
    score(bench, dict.fromkeys([*names, "similarity"]))
    if code := main(["evaluate", str(bench.run.root)]):
        raise SystemExit(code)


def score(bench: Bench, names: Iterable[str], *groups: str) -> None:
    """Make what every method needs, for some groups or for all, and score with it."""
    for name in names:
        make(bench, name, *groups)
        bench.stage("attribute", *METHODS[name].scored, *groups, label=f"attribute {name}")


def make(bench: Bench, name: str, *options: str, label: str = "") -> None:
    """Make what a method needs: the classifier of guidance, or the counterfactual of every group."""
    method = METHODS[name]
    if method.needs:
        make(bench, method.needs)
    if method.stage:
        some = options if method.stage == "unlearn" else ()
        bench.stage(method.stage, *method.made, *some, label=label or f"make {name}")


def _operator(method: str) -> str:
    """The name of a method, by the name of its table."""
    return method.partition("-")[0]


def _cost(bench: Bench, method: str, name: str = "") -> float | None:
    """Seconds for all groups, of one seed of the oracle, of preparation and scoring; None for chance."""
    if method in (ORACLE, ORACLE_LABEL):
        labels = [
            f"{what} {seed}" for seed in range(bench.seeds) for what in ("retrain", "attribute retrain")
        ]
        return bench.seconds(*labels) / bench.seeds
    if method == "chance":
        return None
    operator = _operator(method)
    needs = METHODS[operator].needs
    made = [f"make {operator}", *([f"make {needs}"] if needs else [])]
    return bench.seconds(*made, f"attribute {operator} {name}".rstrip())


def table(bench: Bench, name: str = "") -> list[dict[str, object]]:
    """One row per method: its cost, how many times cheaper than an oracle seed it is, and its agreement.

    Args:
        bench: Whose scores were evaluated last.
        name: That their tables, and the stages that wrote them, were given.
    """
    found = pd.read_parquet(bench.run.evaluation / "metrics.parquet")
    found = found[(found.noise == "all draws") & (found.yardstick == "other seeds")]
    rows = []
    # Other tables of the run, such as those of pairs of groups, carry names of their own.
    tables = f"-0-{name}" if name else "-0"
    oracle = _cost(bench, ORACLE) or 0.0
    for method in found.method.unique():
        if method != ORACLE and method[method.index("-") :] != tables:
            continue
        operator, made_of = ("retrain", bench.seeds) if method == ORACLE else (_operator(method), 1)
        cost = _cost(bench, method, name) or 0.0
        made = bench.evaluations(operator)[0] // made_of
        row: dict[str, object] = {
            "method": "another oracle seed" if method == ORACLE else operator,
            unit(): f"{cost:.0f}",
            "oracle / method": f"{oracle / cost:.0f}",
            "training evaluations": f"{made:,}",
        }
        for weighting in get_args(Weighting):
            for metric in SHOWN:
                chosen = found[(found.method == method) & (found.weighting == weighting)]
                row[f"{metric} {weighting}"] = with_interval(chosen, metric)
        rows.append(row)
    return sorted(rows, key=lambda row: str(row["top1 uniform"]), reverse=True)
