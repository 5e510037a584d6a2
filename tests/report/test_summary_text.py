from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from guda_lightning.report.summary_text import summary, summary_of_parts
from guda_lightning.scores import Evidence, Rise, ScoreTable, Verdict

EXPECTED = """\
retrack, weighting elbo, seed 0: 2 queries, 3 groups, 1 undecided
Untested: nobody has measured here whether retrack ranks groups as retraining does. guda retrain,
  guda attribute --operator retrain and guda evaluate measure it.
No size claimed: the unit of retrack. What it measures, retrack defines.
±: of a score, as the method states it; of a mean, differences between queries as well

group                                                   mean score     leads
dogs                                                   4.50 ± 0.50         1
cats                                                     3.0 ± 2.0         1
birds                                                   −1.0 ± 3.0         0

query                top groups; ? where the first two are too close to call
q0                   cats 5.00 ± 0.20          dogs 4.00 ± 0.10          birds −4.00 ± 0.30
q1                ?  dogs 5.00 ± 0.10          cats 1.0 ± 2.5            birds 2.00 ± 0.30"""


def test_summary_of_a_small_table(score_table: Callable[..., ScoreTable]) -> None:
    table = score_table(
        torch.tensor([[5.0, 4.0, -4.0], [1.0, 5.0, 2.0]]),
        torch.tensor([[0.2, 0.1, 0.3], [2.5, 0.1, 3.0]]),
        groups=["cats", "dogs", "birds"],
    )
    expected = EXPECTED.replace(
        "cats 1.0 ± 2.5            birds 2.00 ± 0.30", "birds 2.0 ± 3.0           cats 1.0 ± 2.5"
    )
    assert summary(table) == expected


def test_every_line_fits_a_terminal_whatever_the_names(score_table: Callable[..., ScoreTable]) -> None:
    groups = [f"{i}\n\x1b[31m" + "a very long name of a style " * 9 for i in range(60)]
    table = score_table(
        torch.randn(40, 60) * 1e-9,
        torch.full((40, 60), 1e-10),
        groups=groups,
        queries=["q" * 200 + str(i) for i in range(40)],
    )
    lines = summary(table).splitlines()
    assert max(map(len, lines)) <= 100
    assert "\x1b" not in "".join(lines)
    assert "… and 20 more groups" in lines
    assert lines[-1] == "… and 32 more queries"


def test_weightings_follow_each_other_over_their_seeds(score_table: Callable[..., ScoreTable]) -> None:
    scores = torch.randn(3, 2)
    table = ScoreTable.concat(
        [score_table(scores), score_table(scores, weighting="uniform"), score_table(scores, seed=1)]
    )
    heads = [line for line in summary(table).splitlines() if line.startswith("retrack")]
    assert [head.split(":")[0] for head in heads] == [
        "retrack, weighting elbo, seeds 0, 1",
        "retrack, weighting uniform, seed 0",
    ]


def test_parts_are_summarised_like_the_whole(score_table: Callable[..., ScoreTable]) -> None:
    scores, names = 1e6 + torch.randn(23, 4), [f"q{i}" for i in range(23)]
    stderr = torch.rand(23, 4)

    def both(rows: slice) -> ScoreTable:
        one = score_table(scores[rows], stderr[rows], queries=names[rows])
        other = score_table(-scores[rows], stderr[rows], queries=names[rows], weighting="uniform")
        return ScoreTable.concat([one, other])

    parts = [both(slice(start, start + 5)) for start in range(0, 23, 5)]
    text = summary_of_parts(iter(parts))
    assert text == summary(both(slice(None)))
    assert "retrack, weighting uniform, seed 0: 23 queries, 4 groups, " in text


def test_verdicts_stand_beside_their_groups_and_the_worst_say_why(
    score_table: Callable[..., ScoreTable],
) -> None:
    evidence = Evidence(Rise(8.0, 0.1, 0.2), Rise(0.3, 0.1, 0.0))
    verdicts = {
        "cats": Verdict("valid", "forgot 1.1 times as far as predicted", evidence),
        "dogs": Verdict("doubtful", "samples of other groups cost 5 % more than they should", evidence),
        "birds": Verdict("invalid", "forgot 40 times further than predicted; " + 9 * "and so on ", evidence),
    }
    table = score_table(torch.tensor([[5.0, 4.0, -4.0]]), groups=[*verdicts])
    lines = summary(replace(table, verdicts=verdicts)).splitlines()
    lines = lines[next(number for number, line in enumerate(lines) if line.startswith("group ")) :]
    assert lines[0].split() == ["group", "mean", "score", "leads", "verdict"]
    assert [line.split()[-1] for line in lines[1:4]] == ["valid", "doubtful", "invalid"]
    assert lines[5] == "Verdicts on 3 counterfactuals: 1 valid, 1 doubtful, 1 invalid."
    assert lines[6].startswith("  birds: invalid, forgot 40 times further than predicted; and so on")
    assert lines[7] == "  dogs: doubtful, samples of other groups cost 5 % more than they should"
    assert max(map(len, lines)) <= 100
