from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from guda_lightning.errors import ConfigError, NumericsError, StoreError
from guda_lightning.scores import (
    Evidence,
    Grade,
    Lead,
    Rise,
    ScoreRecord,
    ScoreTable,
    SquaredErrors,
    Verdict,
)
from guda_lightning.scores.kinds import Custom
from guda_lightning.scores.record import Joined
from guda_lightning.storage.sealed import write_tensors
from toys import write_parquet_by_hand

RECORD = {"model": "ab12", "plan": {"kind": "stratified", "draws": 2}, "seed": 0}
MADE = ScoreRecord(Custom(entries={"model": "ab12"}), query_hash="of q1 and q0")
REMAKE = "remove the file and rerun guda attribute"


def message(problem: str, found: str, expected: str, fix: str) -> str:
    return "^" + re.escape(f"{problem}\n  found:    {found}\n  expected: {expected}\n  fix:      {fix}") + "$"


def squared_errors(**changes: Any) -> SquaredErrors:
    parts = {
        "query_ids": ("a", "b"),
        "errors": torch.arange(12, dtype=torch.float64).view(2, 3, 2),
        "timesteps": torch.arange(12).view(2, 3, 2),
        "record": RECORD,
    }
    return SquaredErrors(**{**parts, **changes})


def table(scores: Tensor | None = None, stderr: Tensor | None = None, **changes: Any) -> ScoreTable:
    arguments: dict[str, Any] = {
        "query_ids": ["q1", "q0"],
        "groups": ["g2", "g0", "g1"],
        "n_draws": 8,
        "method": "retrack",
        "weighting": "elbo",
        "seed": 0,
        "record": MADE,
    }
    arguments |= changes
    shape = (len(arguments["query_ids"]), len(arguments["groups"]))
    scores = torch.arange(shape[0] * shape[1]).view(shape) / 3 if scores is None else scores
    return ScoreTable.from_matrix(scores, torch.ones(shape) if stderr is None else stderr, **arguments)


# squared errors


def test_squared_errors_round_trip(tmp_path: Path) -> None:
    errors = squared_errors(
        errors=torch.rand(2, 2, 3, dtype=torch.float64).mT, record={**RECORD, "k": (1, 2)}
    )
    errors.save(tmp_path / "a" / "errors")
    loaded = SquaredErrors.load(tmp_path / "a" / "errors", expect={"model": "ab12", "k": (1, 2)})
    assert loaded.query_ids == ("a", "b")
    assert torch.equal(loaded.errors, errors.errors)
    assert torch.equal(loaded.timesteps, errors.timesteps)
    assert loaded.record == {**RECORD, "k": [1, 2]}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_squared_errors_that_are_no_numbers_are_refused(bad: float) -> None:
    errors = torch.zeros(2, 3, 2, dtype=torch.float64)
    errors[1, 2, 0] = bad
    expected = message(
        "the squared error of query 'b' at timestep 10 is not a number",
        str(bad),
        "a finite number",
        "look for NaN in the model's weights or in the query, or score in float32",
    )
    with pytest.raises(NumericsError, match=expected):
        squared_errors(errors=errors)


@pytest.mark.parametrize(
    ("name", "tensor", "found"),
    [
        ("errors", torch.zeros(2, 3, 2), "torch.float32 of shape (2, 3, 2)"),
        ("errors", torch.zeros(3, 3, 2, dtype=torch.float64), "torch.float64 of shape (3, 3, 2)"),
        ("errors", torch.zeros(2, 3, dtype=torch.float64), "torch.float64 of shape (2, 3)"),
        ("timesteps", torch.zeros(2, 3, 1, dtype=torch.int64), "torch.int64 of shape (2, 3, 1)"),
        ("timesteps", torch.zeros(2, 3, 2, dtype=torch.int32), "torch.int32 of shape (2, 3, 2)"),
    ],
)
def test_squared_errors_of_another_shape_are_refused(name: str, tensor: Tensor, found: str) -> None:
    dtype = "torch.float64" if name == "errors" else "torch.int64"
    expected = message(
        f"{name} of the squared errors do not fit the 2 queries",
        found,
        f"{dtype} of shape (queries, strata, draws), the same for errors and timesteps",
        "give one row per query id",
    )
    with pytest.raises(ConfigError, match=expected):
        squared_errors(**{name: tensor})


def test_squared_errors_name_each_query_once() -> None:
    expected = message(
        "two query names are the same", "2 times 'a'", "one name per query", "rename one of them"
    )
    with pytest.raises(ConfigError, match=expected):
        squared_errors(query_ids=("a", "a"))


@pytest.mark.parametrize(
    ("expect", "name", "found", "wanted"),
    [
        ({"model": "cd34"}, "model", "ab12", "cd34"),
        (
            {"seed": 0, "plan": {"kind": "fixed"}},
            "plan",
            "{'draws': 2, 'kind': 'stratified'}",
            "{'kind': 'fixed'}",
        ),
        ({"query_hash": "ef"}, "query_hash", "None", "ef"),
    ],
)
def test_squared_errors_of_something_else_are_refused(
    tmp_path: Path, expect: dict[str, object], name: str, found: str, wanted: str
) -> None:
    path = tmp_path / "errors"
    squared_errors().save(path)
    problem = f"{path} was made from something else: its {name} differs"
    with pytest.raises(StoreError, match=message(problem, found, wanted, REMAKE)):
        SquaredErrors.load(path, expect=expect)


def contents(path: Path) -> tuple[str, str]:
    """What is found of a damaged file, and what is expected."""
    (seal,) = re.findall(rb"guda-seal-([0-9a-f]{64})", path.read_bytes())
    found = hashlib.sha256(path.read_bytes().replace(seal, b"0" * 64)).hexdigest()
    return f"contents with sha256 {found[:16]}", f"contents with sha256 {seal.decode()[:16]}, its seal"


def test_damaged_squared_errors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "errors"
    squared_errors().save(path)
    whole = path.read_bytes()

    def refused(found: str, expected: str, damaged: str = "is damaged") -> None:
        with pytest.raises(StoreError, match=message(f"{path} {damaged}", found, expected, REMAKE)):
            SquaredErrors.load(path, expect={})

    path.write_bytes(whole[:-9])
    refused(*contents(path))
    path.write_bytes(b"")
    refused("no seal", "the seal of a file that this version wrote")
    path.write_bytes(whole[:-10] + b"\x3f" + whole[-9:])
    refused(*contents(path))
    write_tensors(path, {"errors": torch.zeros(1)}, {"query_ids": []})
    refused("no entry 'timesteps'", "squared errors written by guda-lightning", "cannot be read")
    path.unlink()
    refused("no such file", "a sealed file", "cannot be read")


# score table


def test_the_long_form(tmp_path: Path) -> None:
    frame = table(
        torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), torch.full((2, 3), 0.5), seed=7
    ).to_pandas()
    expected = pd.DataFrame(
        {
            "query": ["q1"] * 3 + ["q0"] * 3,
            "group": ["g2", "g0", "g1"] * 2,
            "score": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
            "stderr": 0.5,
            "n_draws": 8,
            "method": "retrack",
            "weighting": "elbo",
            "seed": 7,
        }
    )
    pd.testing.assert_frame_equal(frame, expected, check_dtype=False)


@settings(deadline=None)  # the machine may be busy
@given(st.integers(1, 4), st.integers(1, 4), st.randoms(use_true_random=False))
def test_matrices_come_back_from_rows_in_any_order(queries: int, groups: int, random: Any) -> None:
    scores, stderr = torch.randn(queries, groups), torch.rand(queries, groups)
    names = {"query_ids": [f"ü{i}" for i in range(queries)], "groups": [f"g{i}" for i in range(groups)]}
    whole = table(scores, stderr, **names)
    rows = list(range(len(whole)))
    random.shuffle(rows)
    shuffled = ScoreTable(whole.table.take(rows), whole.record)
    q = [names["query_ids"].index(name) for name in shuffled.queries]
    g = [names["groups"].index(name) for name in shuffled.groups]
    assert torch.equal(whole.matrix(), scores.double())
    assert torch.equal(shuffled.matrix(), scores.double()[q][:, g])
    assert torch.equal(shuffled.stderr_matrix(), stderr.double()[q][:, g])


def test_a_table_round_trips_through_a_file_that_others_read(tmp_path: Path) -> None:
    path = tmp_path / "seed=3" / "retrack-0.parquet"
    assert not ScoreTable.exists(path)
    whole = table()
    whole.save(path)
    assert ScoreTable.exists(path)
    loaded = ScoreTable.load(path)
    assert loaded.table.equals(whole.table)
    assert loaded.record == MADE
    assert (loaded.queries, loaded.groups) == (("q1", "q0"), ("g2", "g0", "g1"))
    assert (loaded.methods, loaded.weightings, loaded.seeds, len(loaded)) == (
        ("retrack",),
        ("elbo",),
        (0,),
        6,
    )
    with path.open("rb") as file:
        pd.testing.assert_frame_equal(pd.read_parquet(file), whole.to_pandas())


def test_concat_and_select(tmp_path: Path) -> None:
    parts = [
        table(torch.full((2, 3), float(i)), weighting=w, seed=s)
        for i, (w, s) in enumerate([("elbo", 0), ("uniform", 0), ("elbo", 1)])
    ]
    whole = ScoreTable.concat(parts)
    assert (len(whole), whole.weightings, whole.seeds, whole.record) == (
        18,
        ("elbo", "uniform"),
        (0, 1),
        MADE,
    )
    whole.save(tmp_path / "table")
    whole = ScoreTable.load(tmp_path / "table")
    assert torch.equal(whole.select(weighting="uniform").matrix(), parts[1].matrix())
    assert torch.equal(whole.select("retrack", "elbo", 1).matrix(), parts[2].matrix())
    assert len(whole.select()) == 18
    other = table(method="oracle", record=ScoreRecord(Custom(entries={"model": "cd"})))
    joined = ScoreTable.concat([*parts, other]).record
    assert joined.details == Joined(tables=(MADE, other.record), methods=(("retrack",), ("oracle",)))
    assert joined.of_method("oracle") == (other.record,)
    assert ScoreRecord.from_stored(joined.to_stored()) == joined


SIZED = replace(MADE, group_sizes={"g0": 4, "g1": 1, "g2": 10, "unasked": 7})
OTHER = replace(SIZED, query_hash="of others")


def test_per_sample_divides_scores_and_errors_by_the_size_of_each_group(tmp_path: Path) -> None:
    scores, stderr = torch.randn(2, 3).double(), torch.rand(2, 3).double()
    whole = ScoreTable.concat(
        [table(scores, stderr, record=SIZED), table(-scores, stderr, record=SIZED, weighting="uniform")]
    )
    assert whole.per == "group"
    divided = whole.per_sample()
    assert (divided.per, divided.record) == ("sample", replace(SIZED, per="sample"))
    assert torch.equal(divided.select(weighting="elbo").matrix(), scores / torch.tensor([10, 4, 1]))
    assert torch.equal(divided.select(weighting="uniform").matrix(), -scores / torch.tensor([10, 4, 1]))
    assert torch.equal(divided.select(weighting="elbo").stderr_matrix(), stderr / torch.tensor([10, 4, 1]))
    others = ["query", "group", "n_draws", "method", "weighting", "seed"]
    assert divided.table.select(others).equals(whole.table.select(others))
    divided.save(tmp_path / "table")
    assert ScoreTable.load(tmp_path / "table").per == "sample"
    assert (whole.per, whole.record) == ("group", SIZED)


def test_per_sample_is_asked_once() -> None:
    expected = message(
        "the scores are divided by the size of their group already",
        "scores per sample",
        "scores per group",
        "call per_sample() once",
    )
    once = table(record=SIZED).per_sample()
    joined = ScoreTable.concat([once, table(record=OTHER, method="esd").per_sample()])
    for divided in (once, joined, ScoreTable.concat([joined, table(record=SIZED, seed=1).per_sample()])):
        assert divided.per == "sample"
        with pytest.raises(ConfigError, match=expected):
            divided.per_sample()


@pytest.mark.parametrize(
    ("record", "found"),
    [
        (MADE, "no group_sizes"),
        (ScoreRecord(Joined(tables=(SIZED, OTHER))), "no group_sizes"),
        (replace(MADE, group_sizes={"g0": 1}), "group_sizes without g2, g1"),
    ],
)
def test_per_sample_needs_the_sizes_of_the_groups(record: ScoreRecord, found: str) -> None:
    expected = message(
        "the record of the scores does not say how large the groups are",
        found,
        "the number of samples in each group",
        "score again with guda attribute, and divide before tables are joined",
    )
    with pytest.raises(ConfigError, match=expected):
        table(record=record).per_sample()


def test_scores_of_two_units_are_not_joined() -> None:
    expected = message(
        "scores per sample and scores per group cannot stand in one table",
        "retrack per group, esd per sample",
        "one unit",
        "call per_sample() on all of them, or on none",
    )
    with pytest.raises(ConfigError, match=expected):
        ScoreTable.concat([table(record=SIZED), table(record=SIZED, method="esd").per_sample()])


@pytest.mark.parametrize(
    ("column", "value", "found"),
    [("method", "esd", "retrack"), ("weighting", "kl", "elbo, uniform"), ("seed", 5, "0")],
)
def test_select_names_the_choices(column: str, value: Any, found: str) -> None:
    whole = ScoreTable.concat([table(), table(weighting="uniform")])
    expected = message(
        f"the score table has no rows with {column} {value}",
        found,
        str(value),
        f"choose one of the {column}s that were found",
    )
    with pytest.raises(ConfigError, match=expected):
        whole.select(**{column: value})


@pytest.mark.parametrize(
    ("column", "other", "found"),
    [("method", "esd", "retrack, esd"), ("weighting", "uniform", "elbo, uniform"), ("seed", 1, "0, 1")],
)
def test_a_matrix_of_several_kinds_is_refused(column: str, other: Any, found: str) -> None:
    whole = ScoreTable.concat([table(), table(**{column: other})])
    expected = message(
        f"a matrix needs a score table with one {column}",
        found,
        f"one {column}",
        f"choose with select({column}=...)",
    )
    for matrix in (whole.matrix, whole.stderr_matrix):
        with pytest.raises(ConfigError, match=expected):
            matrix()


def test_missing_rows_are_never_a_zero() -> None:
    part = ScoreTable(table().table.filter([True, True, True, True, False, True]), RECORD)
    expected = message(
        "the score of query 'q0' and group 'g0' is missing",
        "5 rows for 2 queries and 3 groups",
        "6 rows",
        "score all queries under all groups with guda attribute",
    )
    with pytest.raises(ConfigError, match=expected):
        part.matrix()
    empty = ScoreTable(table().table.slice(0, 0), RECORD)
    none = message(
        "a matrix needs a score table with one method",
        "no rows",
        "one method",
        "choose with select(method=...)",
    )
    with pytest.raises(ConfigError, match=none):
        empty.matrix()


def test_repeated_rows_are_refused() -> None:
    expected = message(
        "the score of query 'q1' and group 'g2' is there several times",
        "2 rows with method retrack, weighting elbo, seed 0",
        "one row",
        "join each table once",
    )
    with pytest.raises(ConfigError, match=expected):
        ScoreTable.concat([table(), table().select()])


@pytest.mark.parametrize(
    ("name", "bad", "expected"),
    [
        ("score", math.nan, "finite numbers"),
        ("score", -math.inf, "finite numbers"),
        ("stderr", math.nan, "finite numbers, at least 0"),
        ("stderr", -0.5, "finite numbers, at least 0"),
    ],
)
def test_scores_that_are_no_numbers_are_refused(name: str, bad: float, expected: str) -> None:
    matrix = torch.ones(2, 3)
    matrix[1, 1:] = bad
    problem = f"the {name} of query 'q0' and group 'g0' is not usable"
    fix = "look for NaN in the models' weights or in the query"
    with pytest.raises(NumericsError, match=message(problem, f"{bad}, and 1 more like it", expected, fix)):
        table(**{"scores" if name == "score" else "stderr": matrix})


@pytest.mark.parametrize("name", ["scores", "stderr"])
def test_matrices_of_another_shape_are_refused(name: str) -> None:
    expected = message(
        f"the shape of {name} does not fit the names of queries and groups",
        "(3, 2)",
        "(2, 3): queries, groups",
        "give one row per query id and one column per group",
    )
    with pytest.raises(ConfigError, match=expected):
        table(**{name: torch.ones(3, 2)})


@pytest.mark.parametrize(("kind", "names"), [("query", "query_ids"), ("group", "groups")])
def test_names_are_unique(kind: str, names: str) -> None:
    expected = message(
        f"two {kind} names are the same", "2 times 'x'", f"one name per {kind}", "rename one of them"
    )
    with pytest.raises(ConfigError, match=expected):
        table(None, None, **{names: ["y", "x", "x"]})


def test_columns_are_checked() -> None:
    columns = "query: string, group: string, score: double, stderr: double, n_draws: int64, method: string, "
    columns += "weighting: string, seed: int64"
    problem, fix = "the columns are not those of a score table", "build it with ScoreTable.from_matrix"
    with pytest.raises(ConfigError, match=message(problem, "query: int64", f"{columns}, without nulls", fix)):
        ScoreTable(pa.table({"query": [1]}), {})
    nulls = table().table.set_column(2, "score", pa.nulls(6, pa.float64()))
    with pytest.raises(ConfigError, match=message(problem, columns, f"{columns}, without nulls", fix)):
        ScoreTable(nulls, {})


def test_damaged_tables_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    table(torch.full((2, 3), 1.2345)).save(path)
    whole = path.read_bytes()
    path.with_name("whole.parquet").write_bytes(whole)

    def refused(found: str, expected: str, damaged: str = "is damaged") -> None:
        with pytest.raises(StoreError, match=message(f"{path} {damaged}", found, expected, REMAKE)):
            ScoreTable.load(path)

    no_seal = ("no seal", "the seal of a file that this version wrote")
    path.write_bytes(whole[:-1])
    refused(*contents(path))
    path.write_bytes(b"")
    refused(*no_seal)
    value = torch.tensor(1.2345).double().numpy().tobytes()
    assert whole.count(value) >= 1
    path.write_bytes(whole.replace(value, b"\x00" * 8, 1))
    refused(*contents(path))
    pq.write_table(pq.read_table(path.with_name("whole.parquet")), path)  # by another program
    refused(*no_seal)
    what = ("a score table written by guda-lightning", "cannot be read")
    write_parquet_by_hand(path, table().table.replace_schema_metadata({"guda_lightning": '{"format": 3}'}))
    refused("format 3 instead of 2", *what)
    write_parquet_by_hand(path, table().table.replace_schema_metadata({"other": "1"}))
    refused("no entry b'guda_lightning'", *what)
    about = '{"format": 2, "kind": "custom", "record": {}}'
    write_parquet_by_hand(path, pa.table({"a": [1]}).replace_schema_metadata({"guda_lightning": about}))
    refused("the columns are not those of a score table", *what)
    path.unlink()
    refused("no such file", "a sealed file", "cannot be read")


def test_parts_are_written_and_read_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    made: list[int] = []

    def parts() -> Iterator[ScoreTable]:
        for number in range(3):
            made.append(number)
            yield table(torch.full((2, 3), float(number)), query_ids=[f"{number}a", f"{number}b"])

    ScoreTable.save_parts(path, parts(), OTHER)
    whole, found = ScoreTable.load(path), []
    assert made == [0, 1, 2]
    for part in ScoreTable.load_parts(path):
        found.append(part)
        assert part.record == whole.record == OTHER
    assert [part.queries for part in found] == [("0a", "0b"), ("1a", "1b"), ("2a", "2b")]
    assert ScoreTable.concat(found).table.equals(whole.table)
    assert ScoreTable.load_record(path) == whole.record

    def broken() -> Iterator[ScoreTable]:
        yield table()
        raise KeyboardInterrupt

    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        ScoreTable.save_parts(path, broken(), OTHER)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["table.parquet"]


# verdicts


def test_verdicts_are_stored_beside_the_record_and_change_no_identity(tmp_path: Path) -> None:
    evidence = Evidence(
        Rise(0.2, 0.1, 0.3), Rise(0.0, 0.1), Rise(0.1, 0.1, 0.0), "g0", 0.25, Lead(1.0, 0.5, 2)
    )
    verdicts = {
        "g2": Verdict("invalid", "why", evidence, "posterior"),
        "g0": Verdict("doubtful", "why not", Evidence(Rise(0.2, 0.1), Rise(0.0, 0.1))),
    }
    plain, path = table(), tmp_path / "table.parquet"
    plain.save(path)
    assert ScoreTable.load(path).verdicts == {}
    judged = replace(plain, verdicts=verdicts)
    judged.save(path)
    assert ScoreTable.is_complete(path, plain.record)
    assert list(ScoreTable.load_verdicts(path).items()) == list(verdicts.items())
    loaded = ScoreTable.load(path)
    assert loaded.verdicts == verdicts
    assert loaded.table.equals(plain.table)
    assert next(ScoreTable.load_parts(path)).verdicts == verdicts
    assert loaded.select(weighting="elbo").verdicts == verdicts
    other = table(method="guidance", record=ScoreRecord(Custom(entries={"model": "other"})))
    assert ScoreTable.concat([loaded, other]).verdicts == {}


def test_of_several_seeds_the_worst_verdict_on_each_group_is_kept() -> None:
    evidence = Evidence(Rise(0.2, 0.1), Rise(0.0, 0.1))
    grades: list[dict[str, Grade]] = [
        {"g0": "valid", "g1": "invalid"},
        {"g0": "doubtful", "g1": "doubtful"},
        {},
    ]
    seeds = [
        replace(
            table(seed=seed, record=ScoreRecord(Custom(entries={"seed": seed}))),
            verdicts={group: Verdict(grade, "why", evidence) for group, grade in said.items()},
        )
        for seed, said in enumerate(grades)
    ]
    found = ScoreTable.concat(seeds).verdicts
    assert {group: (one.grade, one.reason) for group, one in found.items()} == {
        "g0": ("doubtful", "seed 1: why"),
        "g1": ("invalid", "seed 0: why"),
    }


def test_a_damaged_verdict_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    table().save(path)
    rows = pq.read_table(path)
    said = {**rows.schema.metadata, b"guda_lightning_verdicts": b'[["g0", {"grade": "valid"}]]'}
    write_parquet_by_hand(path, rows.replace_schema_metadata(said))
    expected = "a score table written by guda-lightning"
    with pytest.raises(
        StoreError, match=message(f"{path} cannot be read", "no entry 'evidence'", expected, REMAKE)
    ):
        ScoreTable.load(path)
