from __future__ import annotations

import pytest
import torch
from torch import Tensor

from guda_lightning.attribution.screening import Screen, Screening, missed
from guda_lightning.errors import ConfigError
from guda_lightning.functional.screening import missed_chance
from guda_lightning.scores import ScoreRecord, ScoreTable
from guda_lightning.scores.kinds import Custom
from guda_lightning.stages.screened import refuse_making
from toys import message

GROUPS = tuple("abcdefg")


def table(scores: Tensor, first: int = 0, groups: tuple[str, ...] = GROUPS) -> ScoreTable:
    return ScoreTable.from_matrix(
        scores,
        torch.zeros_like(scores),
        query_ids=[f"q{first + row}" for row in range(len(scores))],
        groups=groups,
        n_draws=1,
        method="cheap",
        weighting="cosine",
        seed=0,
        record=ScoreRecord(Custom()),
    )


def test_kept_groups_are_those_of_the_best_places_in_any_part() -> None:
    # First: b, b, f; second: a, f, c; third: g, d, a.
    rows = torch.tensor(
        [
            [6.0, 7.0, 0.0, 1.0, 2.0, 3.0, 5.0],
            [0.0, 7.0, 1.0, 5.0, 2.0, 6.0, 3.0],
            [5.0, 0.0, 6.0, 1.0, 2.0, 7.0, 3.0],
        ]
    )
    for parts in (
        [table(rows)],
        [table(rows[:1]), table(rows[1:], 1)],
        [table(rows[:2]), table(rows[2:], 2)],
    ):
        for count, kept in ((1, "b"), (2, "bf"), (3, "abf"), (4, "abcf"), (5, "abcdf")):
            screening = Screening.of(parts, count, "elbo")
            assert "".join(screening.kept) == kept
            assert "".join(screening.out) == "".join(group for group in GROUPS if group not in kept)


def test_the_chance_of_a_missed_group_is_told_for_queries_of_both_tables_in_any_order() -> None:
    cheap, true = torch.randn(6, 7).double(), torch.randn(6, 5).double()
    groups = ("f", "a", "c", "g", "b")
    order = [groups.index(name) for name in "abcfg"]
    kept = torch.tensor([name in groups for name in GROUPS])
    expected = missed_chance(cheap[1:], true[1:, order], kept, 3)
    scored = table(true[1:].flip(0), groups=groups)
    names = {f"q{row}": f"q{5 - row}" for row in range(5)}
    column = [names[name] for name in scored.table["query"].to_pylist()]
    renamed = scored.table.set_column(0, scored.table.schema.field(0), [column])
    found = missed([table(cheap)], [ScoreTable(renamed, scored.record)], "cosine")
    assert [one.leading for one in found] == [1, 3]
    torch.testing.assert_close(found[1].chances, expected)


def test_a_screen_is_a_method_and_a_number() -> None:
    assert Screen.parse("guidance:20") == Screen("guidance", 20)
    for text in ("guidance", "guidance:3", ":20", "guidance:many", "guidance:-9"):
        with pytest.raises(
            ConfigError,
            match=message(
                "the screen is not usable",
                text,
                "a method and the number of groups to keep, 4 or more: the chance of a missed one cannot be "
                "told from fewer",
                "pass it as --screen guidance:20",
            ),
        ):
            Screen.parse(text)


def test_counterfactuals_are_made_in_one_process() -> None:
    refuse_making("guidance:20", object(), 1)
    refuse_making("guidance:20", None, 2)
    with pytest.raises(
        ConfigError,
        match=message(
            "guda attribute makes counterfactuals in one process",
            "2 processes",
            "one: which groups are unlearned follows from the scores of the screen",
            "pass --trainer.devices 1 --trainer.num_nodes 1, or leave the objective out: the command that "
            "makes what is missing is said",
        ),
    ):
        refuse_making("guidance:20", object(), 2)
