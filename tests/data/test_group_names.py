"""What texts mean among the names of groups."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.toys import message

from guda_lightning.data.group_names import GroupNames, beside, is_readable, name_beside, visible
from guda_lightning.data.grouping import Grouping
from guda_lightning.errors import GroupError
from guda_lightning.stages.choices import chosen_groups
from guda_lightning.storage.files import unique_slug

COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


def grouping(*names: str) -> Grouping:
    """One sample a group, and one in none."""
    return Grouping({name: [index] for index, name in enumerate(names)}, len(names) + 1)


@pytest.mark.parametrize(
    ("names", "requested", "expected"),
    [
        # any text is a name, also one that YAML reads as something else
        (["null", "1e5", "true", "x"], "null,1e5,true", ["null", "1e5", "true"]),
        (["null", "1e5", "true", "x"], [None, 100000.0, True], ["null", "1e5", "true"]),
        (["null", "1e5", "true", "x"], "[null, 1e5, 'x']", ["null", "1e5", "x"]),
        (["~", "007", ".nan"], [None, 7, float("nan")], ["~", "007", ".nan"]),
        (["off", "2.50", "x"], [False, 2.5], ["off", "2.50"]),
        (["1e5"], 100000.0, ["1e5"]),
        (["-x", "[a]", "{a: b}", "${b}"], ["-x", "[a]", "{a: b}", "${b}"], ["-x", "[a]", "{a: b}", "${b}"]),
        (["[a]", "x"], "[a]", ["[a]"]),
        (["\U0001f600", "a\nb"], json.dumps(["\U0001f600", "a\nb"]), ["\U0001f600", "a\nb"]),
        # names that hold what separates names
        (["Doe, Jane", "x"], "x, Doe, Jane", ["x", "Doe, Jane"]),
        (["a,b", "a", "b"], "a,b", ["a,b"]),
        (["a,b", "a", "b"], ["a,b", "b"], ["a,b", "b"]),
        (["c++", "c", "x"], "x + c++, c+x", ["c+++x", "c+x"]),
        (["a+b", "a", "c"], "a+b,a+c", ["a+b", "a+c"]),
        # what looks the same is the same
        ([DECOMPOSED, "x"], f"x,{COMPOSED}", ["x", DECOMPOSED]),
        ([DECOMPOSED, "x"], f"{COMPOSED}+x", [f"{DECOMPOSED}+x"]),
        (["New York"], "New\u00a0York\u200b", ["New York"]),
        ([" x", "y"], "y, x", ["y", " x"]),
        # and nothing else is
        (["Cats", "cats"], "cats", ["cats"]),
        (["\U0001f469\u200d\U0001f680", "\U0001f469", "שלום"], "שלום,\U0001f469", ["שלום", "\U0001f469"]),
        (["a" * 300, "x"], "a" * 300, ["a" * 300]),
    ],
)  # fmt: skip
def test_a_text_means_the_groups_of_its_names(
    names: list[str], requested: object, expected: list[str]
) -> None:
    assert chosen_groups(grouping(*names), requested) == expected


LISTED = "name them in a list, as in --groups \"['a,b', 'c']\", or rename the group that holds the ','"
NESTED = "rename the group that holds the '+'"


@pytest.mark.parametrize(
    ("names", "requested", "expected"),
    [
        (["a", "b", "a+b"], "b+a",
         message("'a+b' means several groups", "'a' + 'b' or 'a+b'", "one meaning", NESTED)),
        (["a", "b", "c", "a+b"], "a+b+c",
         message("'a+b+c' means several groups", "'a' + 'b' + 'c' or 'a+b' + 'c'", "one meaning", NESTED)),
        (["a", "b", "c", "a,b"], "a,b,c",
         message("'a,b,c' means several groups", "'a', 'b', 'c' or 'a,b', 'c'", "one meaning", LISTED)),
        (["7", "007"], [7],
         message("7 without quotes means several groups", "'7' and '007'", "a name in quotes",
                 "write '7' with its quotes")),
        (["nul", "x"], [None],
         message("unknown group 'null'", "'null'", "one of 2 groups; nearest: 'nul'",
                 "correct the name")),
        (["truth", "x"], True,
         message("unknown group 'true'", "'true'", "one of 2 groups; nearest: 'truth'",
                 "correct the name")),
        (["two\nlines", "one\u00a0"], "two lin",
         message("unknown group 'two lin'", "'two lin'",
                 r"one of 2 groups; nearest: 'two\nlines'", "correct the name")),
        (["Doe, Jane"], "Doe, Jan",
         message("unknown group 'Doe'", "'Doe'", "one of 1 groups: 'Doe, Jane'",
                 "correct the name")),
    ],
)  # fmt: skip
def test_a_text_without_one_meaning_is_refused(names: list[str], requested: object, expected: str) -> None:
    with pytest.raises(GroupError, match=expected):
        chosen_groups(grouping(*names), requested)


@pytest.mark.parametrize(
    ("first", "second"),
    [(COMPOSED, DECOMPOSED), ("cats", "cats\u200b"), ("New York", "New\u00a0York"), ("cats", " cats")],
)
def test_names_that_look_the_same_are_refused(first: str, second: str) -> None:
    expected = message(
        "the names of two groups look the same",
        f"{first!a} and {second!a}",
        "names that differ in more than blanks, invisible characters and encoding",
        "write both alike, which makes them one group, or rename one of them",
    )
    with pytest.raises(GroupError, match=expected):
        grouping(first, "x", second)


@pytest.mark.parametrize("name", ["", "\u200b", "\u0301", "\n", "caf\udce9"])
def test_names_that_nobody_can_read_are_refused(name: str) -> None:
    expected = message(
        "invalid group name: expected a string", ascii(name), "a readable text", "give every group a name"
    )
    with pytest.raises(GroupError, match=expected):
        grouping(name)


NAMES = st.text(min_size=1).map(visible).filter(is_readable)
SEPARATED = st.text("ab ,+[]'", min_size=1).map(visible).filter(is_readable)


@given(st.lists(NAMES | SEPARATED, min_size=1, max_size=6, unique=True), st.data())
def test_what_groups_are_called_means_these_groups(names: list[str], data: st.DataObject) -> None:
    known = GroupNames(names)
    assert [known.split(name) for name in names] == [[name] for name in names]
    assert known.of_list(names) == names
    several = tuple(sorted(data.draw(st.sets(st.sampled_from(names), min_size=1))))
    try:
        joint = known.joint(several)
    except GroupError:
        assert any(re.search("[+]", name) for name in names)  # nothing else has two meanings
    else:
        assert known.coalition(joint) == several
        assert known.split(joint) == [joint]


WORDS = ("own", "other", "scores")
OURS = st.sampled_from([*WORDS, "group own", "group group own", "group ", "group x", "Own"]).map(str.strip)


@given(st.lists(NAMES | SEPARATED | OURS, min_size=1, max_size=6, unique=True))
def test_names_come_back_from_tables_metrics_and_files(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "named.jsonl"
    lines = [json.dumps({"id": index, "group": [name]}) + "\n" for index, name in enumerate(names)]
    path.write_text("".join(lines), "utf-8")
    ids = [str(index) for index in range(len(names) + 1)]
    read = Grouping.from_metadata(path, ids)
    assert read.names == tuple(sorted(names))
    assert all(read.forget([name]).tolist() == [index] for index, name in enumerate(names))

    keys = [beside(name, WORDS) for name in names]
    assert not set(keys) & set(WORDS)
    assert [name_beside(key, WORDS) for key in keys] == names
    assert len({unique_slug(name) for name in names}) == len(names)
