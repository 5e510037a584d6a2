from __future__ import annotations

from pathlib import Path

import pytest
import torch

from guda_lightning.errors import GroupError, QueryError
from guda_lightning.evaluation.targets import PSEUDO, Targets
from toys import message

QUERIES = ("3/1", "3/2", "7/1", "7/2", "7/3", "odd")
SCORES = torch.tensor([[1.0, 0.0]] * 2 + [[0.0, 1.0]] * 4)
LOSSES = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])


def test_folders_are_groups_of_which_some_are_weighted() -> None:
    found = Targets.of("7", QUERIES, SCORES, LOSSES)
    assert (found.names, found.weighted) == (("3", "7"), ("7",))
    assert found.members.tolist() == [[True] * 2 + [False] * 4, [False] * 2 + [True] * 3 + [False]]


def test_a_folder_that_nobody_named_may_be_small() -> None:
    found = Targets.of("7", ("3/1", "5/1", "5/2", "7/1", "7/2"), SCORES, LOSSES)
    assert (found.names, found.weighted) == (("5", "7"), ("7",))


def test_a_table_gives_groups_which_all_count(tmp_path: Path) -> None:
    table = tmp_path / "groups.csv"
    table.write_text("id,group\n3/1,old\n7/1,young\n7/2,young\nodd,old\n")
    found = Targets.of(str(table), QUERIES, SCORES, LOSSES)
    assert found.names == found.weighted == ("old", "young")
    assert found.members.sum(dim=1).tolist() == [2, 2] and found.origin == str(table)


def test_pseudo_groups_are_numbered_by_their_loss() -> None:
    found = Targets.of(None, QUERIES, SCORES, LOSSES)
    assert found.names == PSEUDO and found.members[0].tolist() == [False] * 2 + [True] * 4
    found = Targets.of(None, QUERIES, SCORES, -LOSSES)
    assert found.members[0].tolist() == [True] * 2 + [False] * 4


def test_what_cannot_be_a_target_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GroupError, match=r"^unknown group '8'"):
        Targets.of("8", QUERIES, SCORES, LOSSES)
    few = message(
        "the target group '3' has too few queries for an interval",
        "1 of 3 queries",
        "at least 2, better tens",
        "score more queries of it with guda attribute, or leave the group out",
    )
    with pytest.raises(GroupError, match=few):
        Targets.of("3", ("3/1", "7/1", "7/2"), SCORES, LOSSES)
    alone = message(
        "the target group 'pseudo-group 1' has too few queries for an interval",
        "1 of 3 queries",
        "at least 2, better tens",
        "score more queries, or pass --target with their groups",
    )
    with pytest.raises(GroupError, match=alone):
        Targets.of(None, QUERIES[:3], torch.eye(2)[[0, 0, 1]], LOSSES[:3])
    flat = message(
        "the queries do not tell which target group they belong to",
        "queries in no folder, such as 'sample-0'",
        "ids such as 3/0001, of images in a folder a group",
        "score such a folder with guda attribute --queries FOLDER, pass --target FILE with the columns id "
        "and group, or leave out --target for pseudo-groups",
    )
    with pytest.raises(QueryError, match=flat):
        Targets.of("3", ("sample-0", "sample-1"), SCORES, LOSSES)
    table = tmp_path / "groups.csv"
    table.write_text("id,group\n3/1,old;dark\n")
    twice = message(
        "the query '3/1' is in two target groups",
        f"'old' and 'dark' in {table}",
        "one group a query: the variance of a mean over both would be wrong",
        "name the combination, such as 'old and dark'",
    )
    with pytest.raises(GroupError, match=twice):
        Targets.of(str(table), QUERIES, SCORES, LOSSES)
    alike = message(
        "the queries cannot be split into pseudo-groups",
        "scores of 6 queries that are the same but for their size",
        "queries that different groups serve",
        "score more queries, or pass --target with their groups",
    )
    with pytest.raises(GroupError, match=alike):
        Targets.of(None, QUERIES, torch.ones(6, 2), LOSSES)
