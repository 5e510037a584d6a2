"""Exact counterfactuals of many groups by ensembles: agreement, cost, and a yardstick of two of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import get_args

import pandas as pd

from benchmarks import groupings, oracles
from benchmarks.agree import make
from benchmarks.methods import METHODS
from benchmarks.oracles import regrouped
from benchmarks.stages import Asked, Bench, unit
from benchmarks.tables import machine, with_interval, write_table
from guda_lightning.cli.main import main
from guda_lightning.counterfactuals import CounterfactualStore
from guda_lightning.evaluation.agreement import ORACLE
from guda_lightning.evaluation.yardsticks import pack_run
from guda_lightning.types import Weighting

QUERIES = 48  # errors of 55 pairs of members, two seeds: half of the 8 MiB that an archive may have
SEEDS = (0, 1)
CHEAP = ("guidance", "similarity", "random")
SHOWN = ("top1", "ndcg@3", "spearman")
TITLE = (
    "Handwritten digits of 8 x 8, groups = {groups} at random; the oracle is an ensemble of {members} members"
)


def run(asked: Asked) -> None:
    """Train two ensembles on digits in random groups, compare cheap methods with them, and pack both."""
    number, members = asked.size.hashed, str(asked.size.members)
    name = f"hashed{number}"
    groups = groupings.hashed(asked.runs / f"{name}.csv", number)
    bench = _with_queries(regrouped(asked.runs / name, groups, oracles.digits(asked)))
    for seed in SEEDS:
        bench.stage("ensemble", "--members", members, "--seed", str(seed), label=f"ensemble {seed}")
        bench.stage("attribute", *_scored(members, seed), label=f"attribute ensemble {seed}")
    for method in CHEAP:
        make(bench, method)
        bench.stage("attribute", *METHODS[method].scored, label=f"attribute {method}")
    given = [str(bench.run.table("ensemble", seed)) for seed in SEEDS]
    tables = [str(bench.run.table(method, 0)) for method in CHEAP]
    if code := main(["evaluate", str(bench.run.root), "--oracle", *given, "--scores", *tables]):
        raise SystemExit(code)
    write_table(asked.docs, "ensembles", asked.command("ensembles"), rows(bench), notes(bench))
    _pack(asked, bench, name, Path(groups))


def rows(bench: Bench) -> list[dict[str, object]]:
    """A row a method, and one of the ensembles' agreement with each other."""
    found = pd.read_parquet(bench.run.evaluation / "metrics.parquet")
    found = found[(found.noise == "all draws") & (found.yardstick == "other seeds")]
    made = []
    for method in found.method.unique():
        name = method.removesuffix("-0")
        labels = [f"{what} {SEEDS[0]}" for what in ("ensemble", "attribute ensemble")]
        if method != ORACLE:
            labels = [f"make {name}", f"attribute {name}"]
        row: dict[str, object] = {
            "method": "another ensemble" if method == ORACLE else name,
            unit(): f"{bench.seconds(*labels):.0f}",
        }
        for weighting in get_args(Weighting)[:2]:
            chosen = found[(found.method == method) & (found.weighting.isin((weighting, name)))]
            row |= {f"{metric} {weighting}": _number(chosen, metric) for metric in SHOWN}
        made.append(row)
    return made


def notes(bench: Bench) -> str:
    """What the reader of the table should know."""
    members, groups = bench.size.members, bench.size.hashed
    training = bench.seconds(*(f"ensemble {seed}" for seed in SEEDS)) / (len(SEEDS) * members)
    found = pd.read_parquet(bench.run.evaluation / "metrics.parquet")
    chance = found[found.metric == "top1"].chance.iloc[0]
    return (
        f"{groups} random groups of the digits, {min(QUERIES, bench.size.queries)} queries. The oracle is an "
        f"ensemble of {members} members, of which {members // 2} never saw a group. Agreement of each of two "
        "ensembles (other groups a member, other seeds) with the other, and of every method with both in "
        f"turn; chance of top1 {chance:.3f}; 95 % intervals. Training and scoring, of one ensemble; as many "
        f"retrainings as groups would be {training * groups:.0f} {unit()} of training alone."
    )


def _number(chosen: pd.DataFrame, metric: str) -> str:
    return with_interval(chosen, metric) if len(chosen) else ""


def _with_queries(bench: Bench) -> Bench:
    """The bench with as many queries of its full model as the archive has room for."""
    wanted = min(QUERIES, bench.size.queries)
    if len(list(bench.run.queries.glob("*.png"))) != wanted:
        shutil.rmtree(bench.run.queries, ignore_errors=True)
        bench.stage("sample", "--num", str(wanted), label=f"sample {wanted}")
    return bench


def _scored(members: str, seed: int) -> tuple[str, ...]:
    """Options of the scores by an ensemble."""
    of = "--attributor.init_args"
    return ("-c", "attribute/ensemble.yaml", f"{of}.members", members, f"{of}.seed", str(seed))


def _pack(asked: Asked, bench: Bench, name: str, groups: Path) -> None:
    """Pack the full model, the queries and both ensembles' scores, without members."""
    records = CounterfactualStore(bench.run.store).records()
    members = str(asked.size.members)
    labels = [f"{what} {seed}" for seed in SEEDS for what in ("ensemble", "attribute ensemble")]
    shown = "-c digits.yaml --trainer.logger false --data.init_args.groups groups.csv"
    packed = pack_run(
        bench.run,
        asked.docs.parent / "yardsticks" / f"{name}.json",
        title=TITLE.format(groups=asked.size.hashed, members=asked.size.members),
        beside={"groups.csv": groups},
        places={"data.init_args.groups": "groups.csv"},
        made={
            "commands": [
                "guda fit -c digits.yaml --trainer.logger false",
                f"guda sample {shown} --num {min(QUERIES, bench.size.queries)}",
                *(f"guda ensemble {shown} --members {asked.size.members} --seed {seed}" for seed in SEEDS),
                *(" ".join(["guda attribute", shown, *_scored(members, seed)]) for seed in SEEDS),
            ],
            "machine": machine(),
            "core_seconds": {label: round(bench.seconds(label), 1) for label in labels},
            "models": {
                "count": len(records),
                "network_evaluations": sum(record.network_evaluations for record in records),
            },
        },
    )
    print(f"ensembles: {packed.archive} written, {packed.card['archive']['bytes'] / 2**20:.1f} MiB")
