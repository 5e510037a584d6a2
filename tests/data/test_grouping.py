from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from guda_lightning.data.group_names import is_readable, visible
from guda_lightning.data.grouping import Grouping
from guda_lightning.errors import ConfigError, DataError, GroupError

READABLE = st.text(min_size=1).map(visible).filter(is_readable)


def message(problem: str, found: str, expected: str, fix: str) -> str:
    text = f"{problem}\n  found:    {found}\n  expected: {expected}\n  fix:      {fix}"
    return f"^{re.escape(text)}$"


@pytest.fixture
def overlapping() -> Grouping:
    return Grouping({"b": [3, 0], "a": [0, 1], "none": []}, num_samples=6)


def test_forget_is_the_sorted_union_and_retain_the_rest(overlapping: Grouping) -> None:
    assert overlapping.names == ("b", "a", "none")
    assert len(overlapping) == 3
    assert [overlapping.size(name) for name in overlapping.names] == [2, 2, 0]
    assert overlapping.forget(["b", "a"]).tolist() == [0, 1, 3]
    assert overlapping.retain(["b", "a"]).tolist() == [2, 4, 5]
    assert overlapping.forget(["a"]).dtype == overlapping.retain(["a"]).dtype == np.int64


@given(st.dictionaries(READABLE, st.sets(st.integers(0, 19)), min_size=1))
def test_membership_agrees_with_sets(members: dict[str, set[int]]) -> None:
    grouping = Grouping({name: list(indices) for name, indices in members.items()}, num_samples=21)
    table = grouping.membership()
    assert table.shape == (21, len(members))
    for column, (name, indices) in enumerate(members.items()):
        assert set(np.flatnonzero(table[:, column])) == indices
        if indices:
            assert set(grouping.forget([name])) == indices
            assert set(grouping.retain([name])) == set(range(21)) - indices


def test_the_hash_depends_on_members_and_count_only() -> None:
    grouping = Grouping({"a": [0, 1], "b": [2]}, 4)
    assert re.fullmatch("[0-9a-f]{64}", grouping.hash)
    assert grouping.hash == Grouping({"b": np.array([2]), "a": [1, 0]}, 4).hash
    others = [
        Grouping({"a": [0, 1], "b": [2]}, 5),
        Grouping({"a": [0, 1], "b": [3]}, 4),
        Grouping({"a": [0, 1], "c": [2]}, 4),
    ]
    assert len({grouping.hash, *(other.hash for other in others)}) == 4


def test_the_hash_of_members_is_that_of_the_union(overlapping: Grouping) -> None:
    assert overlapping.members_hash(["a", "b"]) == overlapping.members_hash(["b", "a", "b"])
    assert overlapping.members_hash(["a"]) != overlapping.members_hash(["b"])


def test_what_it_returns_can_be_changed_without_changing_it(overlapping: Grouping) -> None:
    before = overlapping.hash
    overlapping.forget(["a"])[:] = 5
    overlapping.membership()[:] = True
    assert overlapping.forget(["a"]).tolist() == [0, 1]
    assert Grouping({"b": [3, 0], "a": [0, 1], "none": []}, 6).hash == before


def test_take_renumbers(overlapping: Grouping) -> None:
    taken = overlapping.take([5, 3, 0])
    assert taken.num_samples == 3
    assert taken.names == overlapping.names
    assert taken.forget(["b"]).tolist() == [1, 2]
    assert taken.forget(["a"]).tolist() == [2]


@given(
    st.dictionaries(READABLE, st.sets(st.integers(0, 19)), min_size=1),
    st.integers(0, 2**32),
)
def test_permuted_deals_the_same_memberships_to_other_samples(
    members: dict[str, set[int]], seed: int
) -> None:
    grouping = Grouping({name: list(indices) for name, indices in members.items()}, num_samples=21)
    dealt = grouping.permuted(seed, "placebo-3")
    assert dealt.names == tuple(f"placebo-3/{name}" for name in grouping.names)
    assert dealt.num_samples == 21
    before, after = grouping.membership(), dealt.membership()
    assert sorted(map(tuple, after)) == sorted(map(tuple, before))
    assert (after.T.astype(int) @ after == before.T.astype(int) @ before).all()  # sizes and overlaps
    assert dealt.hash == grouping.permuted(seed, "placebo-3").hash


def test_permuted_groups_differ_by_seed_and_name(overlapping: Grouping) -> None:
    large = Grouping({"a": range(50)}, 100)
    hashes = {large.permuted(seed, name).hash for seed in range(20) for name in ("x", "y")}
    assert len(hashes | {large.hash}) == 41
    assert overlapping.permuted(0, "p").size("p/none") == 0


def test_permuted_gives_every_sample_the_same_chance() -> None:
    grouping = Grouping({"a": [0, 1, 2], "b": [2, 3]}, 8)
    counts = sum(grouping.permuted(seed, "p").membership().astype(int) for seed in range(4000))
    for column, size in enumerate([3, 2]):
        # Draws without replacement vary less than the chi-square distribution assumes.
        assert stats.chisquare(counts[:, column], [4000 * size / 8] * 8).pvalue > 0.001


def test_a_negative_seed_is_refused(overlapping: Grouping) -> None:
    expected = message(
        "the seed of a permuted grouping is out of range",
        "-1",
        "seed >= 0",
        "number the placebo partitions from 0",
    )
    with pytest.raises(ConfigError, match=expected):
        overlapping.permuted(-1, "p")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            ["brids"],
            message("unknown group 'brids'", "'brids'", "one of 3 groups; nearest: 'birds'",
                    "correct the name"),
        ),
        (
            ["dogs"],
            message("group 'dogs' has no samples", "0 samples",
                    "at least 1: removing an empty group changes nothing",
                    "leave it out, or raise the limit on the number of samples"),
        ),
        (
            ["birds", "cats"],
            message("the groups birds, cats cover all training samples", "3 of 3 samples",
                    "some samples left to train on", "remove fewer groups at once"),
        ),
        (
            [],
            message("invalid group names: expected a list", "[]", "a list of one or more group names",
                    "name groups, such as ['birds']"),
        ),
        (
            "birds",
            message("invalid group names: expected a list", "'birds'", "a list of one or more group names",
                    "name groups, such as ['birds']"),
        ),
    ],
)  # fmt: skip
def test_it_refuses_groups_that_cannot_be_removed(names: list[str], expected: str) -> None:
    grouping = Grouping({"birds": [0], "cats": [1, 2], "dogs": []}, 3)
    for method in (grouping.check, grouping.forget, grouping.retain, grouping.members_hash):
        with pytest.raises(GroupError, match=expected):
            method(names)


FIX_INDICES = "give the position of each sample in the training data"


@pytest.mark.parametrize(
    ("members", "count", "expected"),
    [
        ({}, 3, message("a grouping needs a group and a sample", "0 groups over 3 samples",
                        "at least one group and one sample",
                        "check the labels, folders or metadata that the groups come from")),
        ({" ": [0]}, 3, message("invalid group name: expected a string", "' '",
                                "a readable text", "give every group a name")),
        ({"a": [0, 3]}, 3, message("group 'a' has members that do not exist", "indices from 0 to 3",
                                   "indices from 0 to 2", FIX_INDICES)),
        ({"a": [-1]}, 3, message("group 'a' has members that do not exist", "indices from -1 to -1",
                                 "indices from 0 to 2", FIX_INDICES)),
        ({"a": [1, 1]}, 3, message("group 'a' names a sample twice", "2 indices, 1 of them different",
                                   "each sample once per group", "remove the repeated indices")),
        ({"a": [0.5]}, 3, message("the members of group 'a' are not sample indices", "float64 of shape (1,)",
                                  "a list of whole numbers", FIX_INDICES)),
    ],
)  # fmt: skip
def test_it_refuses_members_that_make_no_sense(
    members: dict[str, list[int]], count: int, expected: str
) -> None:
    with pytest.raises(GroupError, match=expected):
        Grouping(members, count)


def test_labels_make_a_partition() -> None:
    grouping = Grouping.from_labels(["dog", "cat", "dog"])
    assert grouping.names == ("cat", "dog")
    assert grouping.forget(["dog"]).tolist() == [0, 2]


def test_named_labels_keep_their_order_and_may_be_empty() -> None:
    grouping = Grouping.from_labels(["dog", "cat"], names=["emu", "dog", "cat"])
    assert grouping.names == ("emu", "dog", "cat")
    assert grouping.size("emu") == 0
    expected = message("unknown group 'cow'", "'cow'", "one of 1 groups: 'dog'", "correct the name")
    with pytest.raises(GroupError, match=expected):
        Grouping.from_labels(["cow"], names=["dog"])


def test_a_function_puts_samples_into_groups() -> None:
    answers = {"x": "red", "y": ["red", "big"], "z": None}
    grouping = Grouping.from_callable(answers.__getitem__, ["x", "y", "z"])
    assert grouping.names == ("big", "red")
    assert grouping.forget(["red"]).tolist() == [0, 1]
    assert grouping.retain(["big", "red"]).tolist() == [2]


CSV = "id,group\nx,red\ny,red; big\nz,\nw,big\nw,old\n"
JSONL = """
{"id": "x", "group": "red"}
{"id": "y", "group": ["red", "big"]}
{"id": "z", "group": null}
{"id": "w", "group": "big;old"}
"""


@pytest.mark.parametrize("text", [CSV, "\ufeff" + CSV, CSV.replace("\n", "\r\n"), JSONL])
def test_metadata_puts_samples_into_several_groups(tmp_path: Path, text: str) -> None:
    path = tmp_path / ("m.jsonl" if "{" in text else "m.csv")
    path.write_bytes(text.encode())
    grouping = Grouping.from_metadata(path, ["w", "x", "y", "z", "unlisted"])
    assert grouping.num_samples == 5
    assert {name: grouping.forget([name]).tolist() for name in grouping.names} == {
        "big": [0, 2],
        "old": [0],
        "red": [1, 2],
    }


def test_metadata_columns_and_separator_can_be_chosen(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({"file": 7, "artist": "a;b|c"}))
    grouping = Grouping.from_metadata(
        path, ["7", "8"], id_column="file", group_column="artist", separator="|"
    )
    assert grouping.names == ("a;b", "c")


FIX_COLUMN = "name the columns so, or fill in the line"
JSON_EXAMPLE = 'one object per line, such as {"id": "0", "group": "cats"}'


@pytest.mark.parametrize(
    ("name", "text", "problem", "found", "expected", "fix"),
    [
        ("m.csv", "id,group\ncat1,a\n", ", line 2: unknown sample 'cat1'", "id 'cat1'",
         "one of 3 samples; nearest: 'cat'", "correct the column 'id' or remove the line"),
        ("m.csv", "id,style\ncat,a\n", ", line 2: no column 'group'", "the columns 'id', 'style'",
         "a column 'group'", FIX_COLUMN),
        ("m.csv", "id,group\ncat\n", ", line 2: no column 'group'", "the columns 'id'", "a column 'group'",
         FIX_COLUMN),
        ("m.csv", "id,group\ncat,a\ndog,b\ncat,a\n", ", line 4: sample 'cat' is put into group 'a' again",
         "the same sample and group twice", "each pair of sample and group once", "remove one of the two"),
        ("m.csv", "id,group\ncat,a;b;a\n", ", line 2: sample 'cat' is put into group 'a' again",
         "the same sample and group twice", "each pair of sample and group once", "remove one of the two"),
        ("m.jsonl", '{"id": "cat", "group": "a"}\n{"id":\n', ", line 2: invalid JSON", '{"id":', JSON_EXAMPLE,
         "correct the line"),
        ("m.jsonl", '{"id": "cat", "group": "\\ud800"}\n', ", line 1: invalid JSON",
         '{"id": "cat", "group": "\\ud800"}', JSON_EXAMPLE, "correct the line"),
        ("m.jsonl", "[1]\n", ", line 1: invalid JSON", "[1]", JSON_EXAMPLE, "correct the line"),
        ("m.jsonl", '{"id": "cat", "group": [1.5]}', ", line 1: invalid group name", "1.5",
         "a text, a whole number, a list of them, or null", "correct the line"),
        ("m.txt", "", " is no group metadata", "a name ending in '.txt'", "a .csv, .tsv or .jsonl file",
         "save the table in one of these formats"),
    ],
)  # fmt: skip
def test_unfit_metadata_is_explained(
    tmp_path: Path, name: str, text: str, problem: str, found: str, expected: str, fix: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError, match=message(f"{path}{problem}", found, expected, fix)):
        Grouping.from_metadata(path, ["cat", "dog", "bird"])


def test_metadata_without_any_group_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("id,group\ncat,\n")
    expected = message(
        f"{path} puts no sample into a group",
        "no line with a group",
        "lines below the columns 'id' and 'group'",
        "fill in the table",
    )
    with pytest.raises(GroupError, match=expected):
        Grouping.from_metadata(path, ["cat"])


def test_a_coalition_is_named_by_its_groups() -> None:
    grouping = Grouping({"b": [0], "a": [1, 2], "c+d": [3], "empty": []}, num_samples=6)
    assert grouping.coalition("b") == ("b",)
    assert grouping.coalition("b + a+b") == ("a", "b")
    assert grouping.coalition("c+d") == ("c+d",)  # the name of a group comes first
    with pytest.raises(GroupError, match="unknown group 'd'"):
        grouping.coalition("a+d")
    with pytest.raises(GroupError, match="group 'empty' has no samples"):
        grouping.coalition("empty")
