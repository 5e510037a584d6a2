"""Two groups removed together: retrained, unlearned, and by guidance, beside each of them alone."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks import oracles
from benchmarks.agree import make
from benchmarks.stages import Asked, Bench
from benchmarks.tables import write_table
from guda_lightning.scores import ScoreTable

OPERATORS = ("retrain", "guidance", "retrack")
NAME = "pairs"


def run(asked: Asked) -> None:
    """Remove three pairs of classes."""
    bench = oracles.digits(asked)
    pairs = ("--groups", ",".join(asked.size.pairs))
    bench.stage("retrain", "--seeds", "0", *pairs, label="make retrain pairs")
    make(bench, "guidance")
    make(bench, "retrack")
    make(bench, "retrack", *pairs, label="make retrack pairs")
    groups = [*map(str, range(asked.size.classes)), *asked.size.pairs]
    scores = {method: _scores(bench, method, groups) for method in OPERATORS}
    rows: list[dict[str, object]] = []
    oracle = scores["retrain"]
    top = torch.stack([_column(oracle, str(digit)) for digit in range(asked.size.classes)]).argmax(dim=0)
    for pair in asked.size.pairs:
        members = pair.split("+")
        chosen = torch.isin(top, torch.tensor([int(name) for name in members]))
        for method, table in scores.items():
            together, interaction = _column(table, pair)[chosen], _interaction(table, pair)[chosen]
            same = torch.corrcoef(torch.stack([interaction, _interaction(oracle, pair)[chosen]]))[0, 1]
            rows.append(
                {
                    "pair": pair,
                    "method": "oracle" if method == "retrain" else method,
                    "removed together": f"{together.mean():.3g}",
                    "one by one, added": f"{(together - interaction).mean():.3g}",
                    "interaction": f"{interaction.mean():.3g}",
                    "its correlation with the oracle's": "" if method == "retrain" else f"{same:.2f}",
                    "queries": int(chosen.sum()),
                }
            )
    notes = (
        "Weighting uniform, oracle seed 0, mean over the queries whose top class is one of the two. The "
        "interaction is what removing both costs beyond what each costs alone, its correlation is over "
        "these queries."
    )
    write_table(asked.docs, "coalitions", asked.command("coalitions"), rows, notes)


def _scores(bench: Bench, method: str, names: list[str]) -> ScoreTable:
    """Scores of every class and every pair."""
    groups = ("--groups", ",".join(names), "--name", NAME)
    scored = ("-c", "attribute/elbo.yaml", "--operator", method)
    bench.stage("attribute", *scored, *groups, label=f"attribute {method} {NAME}")
    return ScoreTable.load(bench.run.table(method, 0, NAME)).select(weighting="uniform")


def _column(table: ScoreTable, group: str) -> Tensor:
    return table.matrix()[:, table.groups.index(group)]


def _interaction(table: ScoreTable, pair: str) -> Tensor:
    """What removing both costs beyond what each costs alone: ``[queries]``."""
    return _column(table, pair) - sum(_column(table, member) for member in pair.split("+"))
