"""Every method of the product against the oracle: agreement, and cost as a share of the oracle's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import get_args

import pandas as pd

from benchmarks import figures, oracles, yardstick
from benchmarks.costs import Cost, costs, oracle_cost
from benchmarks.methods import METHODS
from benchmarks.stages import Asked, Bench, unit
from benchmarks.tables import with_interval, write_table
from guda_lightning.cli.main import main
from guda_lightning.evaluation.agreement import ORACLE
from guda_lightning.evaluation.result import Evaluation
from guda_lightning.report.agreement_table import ORACLE_LABEL
from guda_lightning.report.yardstick_text import COLUMNS, HEADS, method_rows
from guda_lightning.report.yardstick_text import with_interval as shown
from guda_lightning.types import Weighting

SHOWN = ("top1", "ndcg@3")
FIFTY = "fifty"  # timesteps, one draw each
ONE = (
    "Weighting `uniform`; by top-1. Agreement (top-1, NDCG@3) of each oracle seed with the mean of the "
    "others, and of every method with the same means; slope and R² of the oracle's scores as a line in "
    "the method's, within queries: slope 1 is the oracle's size. 95 % intervals over queries and seeds. "
    "Prepare: what is made once for any queries; then one query under all groups; those of the oracle are "
    "of one seed, on the machine of its card. Evaluations: passes of the model, a gradient as three, and "
    "of what was trained, forward alone; not of encoders and posteriors that score. Memory: the most that "
    "`guda attribute` had in use, libraries included, without trainings. Disk: what scoring reads besides "
    "the full model. oracle / method: preparation and all queries together. Where the oracle has some "
    "groups alone, so have methods with a model for each. Blank: nobody has kept it."
)
NOTES = (
    "Seconds of one core for ten groups, training and scoring of 160 queries × 100 evaluations, measured in "
    "one run; those of the oracle are of one seed. The full model's errors were kept and "
    "shared by all that unlearn or retrain; evaluations of guidance are of its classifier. Agreement with "
    "the mean of the other oracle seeds, each left out in turn, with 95 % intervals over queries and seeds."
)


def methods(asked: Asked) -> None:
    """Every method on every yardstick: one table, and one picture of agreement against cost."""
    names = asked.methods(METHODS)
    benches: dict[str, tuple[Bench, Sequence[str]]] = {
        "digits": (oracles.digits(asked), ()),
        "halves": (oracles.parts(asked, "halves"), oracles.part_names(asked, "halves")),
    }
    if asked.cifar10 is not None:
        benches["CIFAR-10 8 x 8"] = (oracles.cifar10(asked), ())
    rows: list[dict[str, object]] = []
    points: list[dict[str, object]] = []
    for name, (bench, groups) in benches.items():
        score_all(bench, [one for one in names if METHODS[one].fits(name)], *groups)
        found = list(_rows(bench, name))
        rows += [row for row, _ in found]
        points += [point for _, of_row in found for point in of_row]
    lacking = "; ".join(f"`{name}`, as {one.lacking}" for name, one in METHODS.items() if one.lacking)
    write_table(asked.docs, "methods", asked.command("methods"), rows, f"{ONE} Left out: {lacking}.")
    figures.costs(asked.docs, points, "methods", "Agreement with retraining, and what it costs", unit())


def _rows(bench: Bench, data: str) -> Iterator[tuple[dict[str, object], list[dict[str, object]]]]:
    """A row of the table for every method that is scored, and its points in the picture."""
    evaluation = Evaluation.load(bench.run.evaluation)
    spent, oracle = costs(bench), oracle_cost(bench)
    for row in method_rows(evaluation):
        table, _, own = row.method.partition(" ")  # a weighting of its own
        method = table.removesuffix("-0")
        fixed = row.method in (ORACLE_LABEL, "chance")
        if row.weighting != "uniform" or not (fixed or method in METHODS):
            continue  # such as tables of other evaluations
        cost = oracle if row.method == ORACLE_LABEL else spent.get(method)
        total = None if cost is None else cost.total
        shared: dict[str, object] = {
            "data": data,
            "method": row.method if fixed else f"{method} {own}".rstrip(),
        }
        numbers = {HEADS.get(one, one): shown(one, row.numbers.get(one)) for one in COLUMNS}
        told = Cost().cells() if cost is None else cost.cells()
        times = "" if not total or not oracle.total else f"{oracle.total / total:.3g}"
        points = [
            {**shared, "cost": total, "metric": metric}
            | dict(zip(("value", "low", "high"), row.numbers[metric], strict=True))
            for metric in SHOWN
        ]
        yield {**shared, **numbers, **told, "oracle / method": times}, points


def digits(asked: Asked) -> None:
    """All objectives against the oracle seeds, and what makes those agree."""
    bench = oracles.digits(asked)
    score_all(
        bench, [name for name, one in METHODS.items() if one.stage and one.fits("digits")][: asked.size.kinds]
    )
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


def score_all(bench: Bench, names: Sequence[str], *groups: str) -> None:
    """Score every method and pixel similarity, and compare them with the oracle.

    Args:
        bench: The run folder.
        names: Of the methods.
        *groups: Those that the oracle has, where these are not all: methods with a model for each make no
            others.
    """
    for name in dict.fromkeys([*names, "similarity"]):
        some = ("--groups", ",".join(groups)) if groups and METHODS[name].learns else ()
        score(bench, [name], *some)
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
    oracle, spent = oracle_cost(bench).total, costs(bench, name)
    for method in found.method.unique():
        if method != ORACLE and method[method.index("-") :] != tables:
            continue
        operator, made_of = ("retrain", bench.seeds) if method == ORACLE else (_operator(method), 1)
        cost = oracle if method == ORACLE else spent[operator].total
        made = bench.evaluations(operator)[0] // made_of
        row: dict[str, object] = {
            "method": "another oracle seed" if method == ORACLE else operator,
            unit(): "" if cost is None else f"{cost:.0f}",
            "oracle / method": "" if not cost or not oracle else f"{oracle / cost:.0f}",
            "training evaluations": f"{made:,}",
        }
        for weighting in get_args(Weighting):
            for metric in SHOWN:
                chosen = found[(found.method == method) & (found.weighting == weighting)]
                row[f"{metric} {weighting}"] = with_interval(chosen, metric)
        rows.append(row)
    return sorted(rows, key=lambda row: str(row["top1 uniform"]), reverse=True)
