"""Every method of the product against the oracle: agreement, and cost as a share of the oracle's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

import pandas as pd

from benchmarks import figures, oracles, yardstick
from benchmarks.stages import Asked, Bench, unit
from benchmarks.tables import with_interval, write_table
from guda_lightning.cli.main import main
from guda_lightning.types import Weighting

DISTILL = ("--objective.init_args.preserve", "distill")
METHODS: Mapping[str, Sequence[str]] = {
    "retrack": ("-c", "unlearn/retrack.yaml"),
    "retrack_distill": ("-c", "unlearn/retrack.yaml", *DISTILL),
    "zero_target": ("-c", "unlearn/zero_target.yaml"),
    "zero_target_distill": ("-c", "unlearn/zero_target.yaml", *DISTILL),
    "finetune": ("-c", "unlearn/finetune.yaml"),
    "neggrad": ("-c", "unlearn/neggrad.yaml"),
    "guided": ("-c", "unlearn/guided.yaml"),
}
SHOWN = ("top1", "ndcg@3")
FIFTY = "fifty"  # timesteps, one draw each
NOTES = (
    "Seconds of one core for ten groups, training and scoring of 160 queries × 100 evaluations, measured in "
    "one run; those of the oracle are of one seed. The full model's errors were kept and "
    "shared by all that unlearn or retrain; evaluations of guidance are of its classifier. Agreement with "
    "the mean of the other oracle seeds, each left out in turn, with 95 % intervals over queries and seeds."
)


def digits(asked: Asked) -> None:
    """All objectives against three oracle seeds, and what makes those agree."""
    bench = oracles.digits(asked)
    score_all(bench, ("guidance", *METHODS)[: asked.size.kinds])
    write_table(asked.docs, "digits", asked.command("digits"), table(bench), NOTES)
    draw_yardstick(asked, bench, "digits")


def guidance(asked: Asked) -> None:
    """One classifier for all groups, beside unlearning each."""
    bench = oracles.digits(asked)
    score_all(bench, ("guidance", "retrack", "guided"))
    write_table(asked.docs, "guidance", asked.command("guidance"), table(bench), NOTES)


def speed(asked: Asked) -> None:
    """The cheapest methods with as few evaluations as still rank well, and the oracle with as few."""
    bench = oracles.digits(asked)
    scored = ("-c", "attribute/elbo.yaml", "--scoring.draws", "1", "--name", FIFTY)
    tables = {}
    for method in ("guidance", "retrack", *(f"retrain {seed}" for seed in range(bench.seeds))):
        operator, _, seed = method.partition(" ")
        if operator != "retrain":
            make(bench, operator)
        of = ("--operator", operator, "--seed", seed or "0")
        bench.stage("attribute", *scored, *of, label=f"attribute {method} {FIFTY}")
        tables[method] = str(bench.run.table(operator, int(seed or 0), FIFTY))
    oracle = [path for method, path in tables.items() if method.startswith("retrain")]
    others = [path for path in tables.values() if path not in oracle]
    if code := main(["evaluate", str(bench.run.root), "--oracle", *oracle, "--scores", *others]):
        raise SystemExit(code)
    notes = NOTES.replace("100 evaluations", "50 timesteps")
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


def score_all(bench: Bench, methods: Sequence[str]) -> None:
    """Score every method, and compare them with the oracle."""
    score(bench, (*methods, "similarity"))
    if code := main(["evaluate", str(bench.run.root)]):
        raise SystemExit(code)


def score(bench: Bench, methods: Sequence[str]) -> None:
    """Make the counterfactuals of every method, and score with them."""
    for method in methods:
        if method == "similarity":
            bench.stage("attribute", "-c", "attribute/similarity.yaml", label="attribute similarity")
        else:
            make(bench, method)
            scored = ("-c", "attribute/elbo.yaml", "--operator", method)
            bench.stage("attribute", *scored, label=f"attribute {method}")


def make(bench: Bench, method: str, *options: str, label: str = "") -> None:
    """Train the classifier of guidance, or unlearn every group by another method."""
    if method == "guidance":
        bench.stage("guide", label="make guidance")
    else:
        quiet = ("--trainer.callbacks", "[]")
        bench.stage("unlearn", *METHODS[method], *options, *quiet, label=label or f"make {method}")


def table(bench: Bench, name: str = "") -> list[dict[str, object]]:
    """One row per method: its cost, how many times cheaper than an oracle seed it is, and its agreement.

    Args:
        bench: Whose scores were evaluated last.
        name: That their tables, and the stages that wrote them, were given.
    """
    end = f" {name}" if name else ""
    found = pd.read_parquet(bench.run.evaluation / "metrics.parquet")
    found = found[(found.noise == "all draws") & (found.yardstick == "other seeds")]
    seeds = bench.seeds
    retrained = [bench.seconds(f"retrain {s}", f"attribute retrain {s}{end}") for s in range(seeds)]
    oracle = sum(retrained) / seeds
    rows = []
    # Other tables of the run, such as those of pairs of groups, carry names of their own.
    tables = f"-0-{name}" if name else "-0"
    for method in found.method.unique():
        if method != "oracle" and method[method.index("-") :] != tables:
            continue
        operator, made_of = ("retrain", seeds) if method == "oracle" else (method.partition("-")[0], 1)
        needs = ["make guidance"] if operator == "guided" else []  # its classifier
        own = bench.seconds(f"make {operator}", f"attribute {operator}{end}", *needs)
        cost = oracle if method == "oracle" else own
        made = bench.evaluations(operator)[0] // made_of
        row: dict[str, object] = {
            "method": "another oracle seed" if method == "oracle" else operator,
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
