"""``guda attribute --screen``: cheap scores of all groups, true ones of few, through the command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from guda_lightning import ScoreTable
from guda_lightning.cli.main import main
from guda_lightning.scores.kinds import Screened

CONF = Path(__file__).parents[1] / "conf"
SHARED = ["-c", f"{CONF}/digits.yaml"]
SCREEN = ["attribute", *SHARED, "-c", f"{CONF}/attribute.yaml", "--screen", "similarity:4"]
TABLE = "retrack_screened-0.parquet"


def succeed(*arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0


def forget(run: Path, group: str) -> None:
    """Remove the counterfactual of a group."""
    (path,) = (run / "store").glob(f"retrack-{group}-*")
    shutil.rmtree(path)


def test_kept_groups_have_their_true_scores_and_the_others_none(
    guided_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*SCREEN[:-1], "guidance:4", "--operator", "retrack", "--run", guided_run]
    succeed(*arguments)
    out = capsys.readouterr().out
    table = ScoreTable.load(guided_run / "scores" / TABLE)
    cheap = ScoreTable.load(guided_run / "scores" / "guidance-0.parquet")
    whole = ScoreTable.load(guided_run / "scores" / "retrack-0.parquet")
    details = table.record.details
    assert isinstance(details, Screened)
    assert (details.screened_by, details.screen_weighting) == ("guidance", "elbo")
    assert details.screen == cheap.record.hash
    assert sorted([*table.groups, *details.out]) == sorted(cheap.groups)
    # The first group of every query, as far as there are no more than four of them.
    leading = {
        cheap.groups[column] for column in cheap.select(weighting="elbo").matrix().argmax(dim=1).tolist()
    }
    assert leading <= set(table.groups) or set(table.groups) <= leading
    for weighting in table.weightings:
        columns = [whole.groups.index(group) for group in table.groups]
        found, expected = (one.select(weighting=weighting).matrix() for one in (table, whole))
        assert torch.equal(found, expected[:, columns])
    assert f"attribute: 4 of 10 groups kept: {', '.join(table.groups)}" in out
    assert "attribute: 6 of 10 groups were screened out by guidance (elbo) and have no score" in out
    assert "attribute: chance that one of them leads a query (elbo): at most " in out
    assert (
        "attribute: chance that one of them is among the 3 leading groups of a query (elbo): at most " in out
    )

    succeed(*arguments)
    assert f"{TABLE} is complete, skipped" in capsys.readouterr().out
    succeed("report", guided_run, "--scores", guided_run / "scores" / TABLE)
    page = (guided_run / "report" / "index.html").read_text()
    assert f"<dd>{', '.join(details.out)}</dd>" in page
    assert "leads a query (uniform): at most " in page
    (guided_run / "scores" / "guidance-0.parquet").unlink()
    succeed("report", guided_run, "--scores", guided_run / "scores" / TABLE)
    gone = "unknown: the scores by guidance were replaced since"
    assert gone in (guided_run / "report" / "index.html").read_text()

    # True scores may be those of a posterior too, which holds every group.
    succeed(*SCREEN, "--operator", "guidance", "--run", guided_run)
    by_posterior = ScoreTable.load(guided_run / "scores" / "guidance_screened-0.parquet")
    columns = [cheap.groups.index(name) for name in by_posterior.groups]
    assert len(columns) == 4
    found, expected = (one.select(weighting="uniform").matrix() for one in (by_posterior, cheap))
    assert torch.allclose(found, expected[:, columns], rtol=1e-6)  # batches of another size add up otherwise


def test_what_is_missing_is_made_with_an_objective_and_else_named_in_a_command(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    succeed(*SCREEN, "--run", finished_run)
    before = ScoreTable.load(finished_run / "scores" / TABLE)
    missing = before.groups[1:3]
    for group in missing:
        forget(finished_run, group)
    (finished_run / "scores" / TABLE).unlink()
    capsys.readouterr()
    assert main([*SCREEN, "--run", str(finished_run)]) == 2
    assert capsys.readouterr().err == (
        f"error: counterfactuals are missing in {finished_run / 'store'}\n"
        f"  found:    none of operator retrack, seed 0 for {', '.join(missing)}\n"
        "  expected: one for each of 4 groups\n"
        f"  fix:      run guda unlearn with --groups {','.join(missing)}\n"
    )
    made = ["-c", f"{CONF}/unlearn.yaml", "--seed", "0,1", "--trainer.limit_val_batches", "0"]
    succeed(*SCREEN, *made, "--run", finished_run)
    out = capsys.readouterr().out
    assert "unlearn: 2 groups x 4 steps (retrack)" in out
    assert "unlearn: 4 groups x 4 steps (retrack)" in out  # those of seed 1
    after = ScoreTable.load(finished_run / "scores" / TABLE)
    assert after.groups == before.groups
    torch.testing.assert_close(
        after.select(weighting="elbo").matrix(), before.select(weighting="elbo").matrix()
    )
    other = ScoreTable.load(finished_run / "scores" / TABLE.replace("-0", "-1"))
    assert (other.groups, other.seeds) == (before.groups, (1,))


def error(problem: str, found: str, expected: str, fix: str) -> str:
    return f"error: {problem}\n  found:    {found}\n  expected: {expected}\n  fix:      {fix}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--screen", "similarity:10"),
            error(
                "there is nothing to screen out",
                "10 groups, 10 of them to keep",
                "more groups than are kept",
                "keep fewer, or leave out --screen",
            ),
        ),
        (
            ("-c", f"{CONF}/unlearn.yaml"),
            error(
                "attribute makes no counterfactuals, and an objective was given",
                "an objective ReTrack",
                "none, or a screen, which says for which groups they are made",
                "run guda unlearn with it first, or pass --screen guidance:20",
            ),
        ),
        (
            ("--screen", "similarity:4", "--attributor", "guda_lightning.attribution.PixelSimilarity"),
            error(
                "screen is about counterfactuals, and another attributor was given",
                "screen similarity:4",
                "an attributor, or options of counterfactuals",
                "leave out --screen, or the attributor",
            ),
        ),
    ],
)
def test_screens_that_cannot_be_are_refused(
    finished_run: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    assert main([*SCREEN[:-2], *arguments, "--run", str(finished_run)]) == 2
    assert capsys.readouterr().err == said
