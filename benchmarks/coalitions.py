"""Two groups removed together: retrained, unlearned, and by guidance, beside each of them alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    scores = {method: _scores(bench, method, asked.size.pairs) for method in OPERATORS}
    rows: list[dict[str, object]] = []
    oracle = scores["retrain"]
    top = torch.stack([oracle[str(digit)] for digit in range(asked.size.classes)]).argmax(dim=0)
    for pair in asked.size.pairs:
        members = pair.split("+")
        chosen = torch.isin(top, torch.tensor([int(name) for name in members]))
        for method, table in scores.items():
            together, interaction = table[pair][chosen], _interaction(table, pair)[chosen]
            beside = torch.stack([interaction, _interaction(oracle, pair)[chosen]])
            told = method != "retrain" and len(interaction) > 1  # a toy may have fewer such queries
            rows.append(
                {
                    "pair": pair,
                    "method": "oracle" if method == "retrain" else method,
                    "removed together": f"{together.mean():.3g}",
                    "one by one, added": f"{(together - interaction).mean():.3g}",
                    "interaction": f"{interaction.mean():.3g}",
                    "its correlation with the oracle's": f"{torch.corrcoef(beside)[0, 1]:.2f}"
                    if told
                    else "",
                    "queries": int(chosen.sum()),
                }
            )
    notes = (
        "Weighting uniform, oracle seed 0, mean over the queries whose top class is one of the two. The "
        "interaction is what removing both costs beyond what each costs alone, its correlation is over "
        "these queries."
    )
    write_table(asked.docs, "coalitions", asked.command("coalitions"), rows, notes)


def _scores(bench: Bench, method: str, pairs: Sequence[str]) -> dict[str, Tensor]:
    """Scores ``[queries]`` of every class, of the oracle as it was scored before, and of every pair."""
    scored = ("-c", "attribute/elbo.yaml", "--operator", method)
    removed = ("--groups", ",".join(pairs), "--name", NAME)
    bench.stage("attribute", *scored, *removed, label=f"attribute {method} {NAME}")
    if method != "retrain":
        bench.stage("attribute", *scored, label=f"attribute {method}")
    tables = [ScoreTable.load(bench.run.table(method, 0, *names)) for names in ([], [NAME])]
    chosen = [table.select(weighting="uniform") for table in tables]
    return {group: table.matrix()[:, i] for table in chosen for i, group in enumerate(table.groups)}


def _interaction(scores: Mapping[str, Tensor], pair: str) -> Tensor:
    """What removing both costs beyond what each costs alone: ``[queries]``."""
    return scores[pair] - sum(scores[member] for member in pair.split("+"))
