"""What a screen misses, and what a screened answer costs as the number of groups grows."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks import groupings, oracles
from benchmarks.agree import FIFTY, make
from benchmarks.oracles import regrouped
from benchmarks.stages import Asked, unit
from benchmarks.tables import write_table
from guda_lightning.attribution import Screening
from guda_lightning.functional.screening import FEWEST, missed_chance
from guda_lightning.scores import ScoreTable

SCORED = ("-c", "attribute/elbo.yaml", "--scoring.draws", "1")
CANDIDATES = (1, 2, 3, 5)
IN_ALL = (4, 5, 6, 8)
LEADING = (1, 3)


def run(asked: Asked) -> None:
    """The digits' classes with the oracle as the true scores, then random subgroups with retrack."""
    _missed(asked)
    _costs(asked)


def _missed(asked: Asked) -> None:
    """Keep every query's first groups, and count the leading ones of the oracle that are not among them."""
    bench = oracles.digits(asked, weights=True)  # scored at other timesteps than those that are packed
    make(bench, "guidance")
    for operator in ("guidance", "retrain"):
        scored = (*SCORED, "--operator", operator, "--name", FIFTY)
        bench.stage("attribute", *scored, label=f"attribute {operator} 0 {FIFTY}")
    bench.stage("attribute", "-c", "attribute/similarity.yaml", label="attribute similarity")
    oracle = ScoreTable.load(bench.run.table("retrain", 0, FIFTY)).select(weighting="uniform")
    cheap = {
        "guidance": ScoreTable.load(bench.run.table("guidance", 0, FIFTY)).select(weighting="uniform"),
        "similarity": ScoreTable.load(bench.run.table("similarity", 0)),
    }
    rows = [
        row
        for name, table in cheap.items()
        for row in _rows(name, table, oracle.matrix()[:, [oracle.groups.index(g) for g in table.groups]])
    ]
    notes = (
        f"{asked.size.queries} queries, weighting uniform, 50 timesteps. Kept: the first groups of each, or "
        "so many in all, as `--screen` does. Missed: the share of queries with a leading group of oracle "
        "seed 0 that was not kept. Stated: the mean chance that `guda attribute --screen` says, from the "
        "kept groups; it needs four."
    )
    write_table(asked.docs, "screening", asked.command("screening"), rows, notes)


def _rows(name: str, table: ScoreTable, true: Tensor) -> list[dict[str, object]]:
    """What one screen misses of the true scores, ``[queries, groups]`` in the order of the table's groups."""
    scores, order = table.matrix().sort(dim=1, descending=True)
    total = len(table.groups)
    kinds = [
        (f"{count} of each", scores, true.gather(1, order), torch.arange(total) < count)  # by falling scores
        for count in CANDIDATES
    ]
    for count in IN_ALL:
        chosen = Screening.of([table], count, "uniform").kept
        kept = torch.tensor([group in chosen for group in table.groups])
        kinds.append((f"{count} in all", table.matrix(), true, kept))
    rows = []
    for what, x, y, kept in kinds:
        count = int(kept.sum())
        if count == total:
            continue
        row: dict[str, object] = {"screen": name, "kept": what}
        for leading in LEADING:
            missed = (~kept[y.topk(leading, dim=1).indices]).any(dim=1).double().mean()
            row[f"top {leading} missed"] = f"{missed:.3f}"
            told = count >= FEWEST
            stated = missed_chance(x, y[:, kept], kept, leading).mean() if told else None
            row[f"stated, top {leading}"] = "" if stated is None else f"{stated:.3f}"
        rows.append(row)
    return rows


def _costs(asked: Asked) -> None:
    """Screen random subgroups of the digits, and unlearn as many of few as of many."""
    whole = oracles.digits(asked)
    queries = ("--queries", str(whole.run.queries))
    rows: list[dict[str, object]] = []
    first = 0.0
    for number in asked.size.screened:
        path = asked.runs / f"groups_{number}.csv"
        bench = regrouped(asked.runs / f"screened_{number}", groupings.hashed(path, number), whole)
        make(bench, "guidance")
        bench.stage("attribute", *SCORED, "--operator", "guidance", *queries, label="attribute guidance")
        kept = ("--screen", f"guidance:{asked.size.kept}", "-c", "unlearn/retrack.yaml")
        options = (*kept, "--trainer.callbacks", "[]", *asked.size.stages.get("unlearn", ()))
        bench.stage("attribute", *SCORED, *options, *queries, label="attribute screened")
        spent = [
            bench.seconds(label) for label in ("make guidance", "attribute guidance", "attribute screened")
        ]
        first = first or sum(spent)
        rows.append(
            {
                "groups": number,
                "classifier": f"{spent[0]:.0f}",
                "cheap scores": f"{spent[1]:.0f}",
                "unlearning and true scores": f"{spent[2]:.0f}",
                unit(): f"{sum(spent):.0f}",
                "ratio": f"{sum(spent) / first:.1f}",
            }
        )
    notes = (
        f"`--screen guidance:{asked.size.kept} -c unlearn/retrack.yaml`: {asked.size.queries} queries, 50 "
        f"timesteps; {asked.size.kept} groups are unlearned, whatever their number."
    )
    write_table(asked.docs, "screening-cost", asked.command("screening"), rows, notes)
