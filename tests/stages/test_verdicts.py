"""Verdicts of ``guda attribute``, through the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from guda_lightning import ScoreTable
from guda_lightning.cli.main import main
from guda_lightning.posteriors import GUIDANCE, PosteriorStore

CONF = Path(__file__).parents[1] / "conf"
SHARED = ["-c", f"{CONF}/digits.yaml"]
ATTRIBUTE = ["attribute", *SHARED, "-c", f"{CONF}/attribute.yaml", "--operator", "retrack"]


def test_verdicts_follow_the_posterior_and_leave_the_scores_alone(
    guided_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    path, run = guided_run / "scores" / "retrack-0.parquet", ["--run", str(guided_run)]
    before = ScoreTable.load(path)
    assert tuple(before.verdicts) == before.groups
    assert {verdict.grade for verdict in before.verdicts.values()} <= {"doubtful", "invalid"}
    assert all(verdict.posterior is None for verdict in before.verdicts.values())
    assert all(verdict.evidence.last_quarter is not None for verdict in before.verdicts.values())

    assert main([*ATTRIBUTE, *run]) == 0
    out = capsys.readouterr().out
    assert out.startswith("attribute: verdicts on 10 counterfactuals, at most ")
    assert out.endswith(f"{path} is complete, skipped\n")
    after = ScoreTable.load(path)
    posterior = PosteriorStore(guided_run / "store").find(GUIDANCE, seed=0)
    assert {verdict.posterior for verdict in after.verdicts.values()} == {posterior.weights_hash}
    assert all(verdict.evidence.forget.predicted is not None for verdict in after.verdicts.values())
    assert after.record == before.record
    assert after.table.equals(before.table)
    worst = next(name for name, verdict in after.verdicts.items() if verdict.grade != "valid")
    assert f"  {worst}: {after.verdicts[worst].grade}, {after.verdicts[worst].reason[:60]}" in out

    assert main([*ATTRIBUTE, *run]) == 0  # nothing to judge again
    assert "verdicts on" not in capsys.readouterr().out
    assert main(["report", str(guided_run)]) == 0
    page = (guided_run / "report" / "index.html").read_text()
    assert f'<td class="{after.verdicts[worst].grade}">' in page
