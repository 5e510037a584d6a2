"""A validation says of its counterfactuals what the run folder of their store knows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from guda_lightning.callbacks.known_worth import standing_in, with_verdicts
from guda_lightning.evaluation.validity import judge
from guda_lightning.scores import ScoreRecord, ScoreTable
from guda_lightning.scores.kinds import Likelihood
from guda_lightning.scores.verdicts import Evidence, Rise

INVALID = judge(Evidence(Rise(0.0, 0.1), Rise(0.0, 0.1)))


def table(hashes: dict[str, str], *, sized: bool = True) -> ScoreTable:
    return ScoreTable.from_matrix(
        torch.ones(2, len(hashes), dtype=torch.float64),
        torch.ones(2, len(hashes), dtype=torch.float64),
        query_ids=("a", "b"),
        groups=tuple(hashes),
        n_draws=1,
        method="guidance",
        weighting="elbo",
        seed=0,
        record=ScoreRecord(Likelihood(counterfactuals=hashes, sized=sized)),
    )


def test_verdicts_are_those_on_the_very_counterfactuals(tmp_path: Path) -> None:
    judged = replace(table({"cat": "1", "dog": "2"}), verdicts={"cat": INVALID, "dog": INVALID})
    judged.save(tmp_path / "scores" / "guidance-0.parquet")
    shown = table({"dog": "3", "cat": "1"})  # a dog that was made again
    assert with_verdicts(shown, tmp_path / "store").verdicts == {"cat": INVALID}
    assert with_verdicts(shown, tmp_path / "elsewhere").verdicts == {}  # of no run folder


def test_the_standing_is_in_the_words_of_the_page(tmp_path: Path) -> None:
    for store in (tmp_path / "store", tmp_path / "elsewhere", None):
        said = standing_in(table({"cat": "1", "dog": "2"}), store)
        assert said["level"] == "untested"
        assert said["headline"].startswith("Untested: nobody has measured here whether guidance ranks")
        assert said["size"].startswith("Size claimed: nats.")
    assert standing_in(table({"cat": "1", "dog": "2"}, sized=False), None)["size"].startswith(
        "No size claimed"
    )
