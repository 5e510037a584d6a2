"""Records of scores: every kind comes back from its file, and those that do not say their kind are told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from guda_lightning.errors import StoreError
from guda_lightning.scores import ScoreRecord, ScoreTable, kinds
from guda_lightning.scores.record import ChunkRecord, Joined, ScoringRecord
from guda_lightning.storage.files import sha256_json
from guda_lightning.storage.provenance import Provenance
from toys import message, write_parquet_by_hand

PLAN = {
    "kind": "stratified",
    "biased": False,
    "range": [1, 99],
    "timesteps": 99,
    "starts": [1, 50],
    "draws": 2,
}
SCORING = {"seed": 3, "plan": PLAN, "stderr": "within strata", "precision": "fp32"}
ORIGIN = {"full_hash": "f1", "schedule_hash": "s1", "grouping_hash": "g1"}
MODELS = {"hparams_hash": "h1", "weightings": ["elbo", "uniform", "middle"]}
SIZES = {"group_sizes": {"a": 4, "b": 5}}
SCORED = {**ORIGIN, **SCORING, **MODELS, **SIZES, "query_hash": "q1"}
HASHES = {"a": "ca", "b": "cb"}
# Records entry by entry, as joined ones hold them.
OLD: dict[str, dict[str, Any]] = {
    "likelihood": {**SCORED, "counterfactuals": HASHES},
    "race": {
        **SCORED,
        "models": HASHES,
        "classifier": "c1",
        "stderr": "over rounds of a race",
        "top": 1,
        "delta": 0.05,
        "rounds": [3, 20],
        "race_weighting": "uniform",
    },
    "coalitions": {
        **SCORED,
        "classifier": "c1",
        "coalitions": "all of them",
        "worth": "shapley",
        "draws": 200,
        "reference": None,
        "stderr": "exact",
    },
    "similarity": {
        "grouping_hash": "g1",
        **SIZES,
        "images_hash": "i1",
        "mirrored": False,
        "query_hash": "q1",
        "top": 10,
    },
    "random groups": {
        "of": "r1",
        "partitions": 99,
        "level": 0.05,
        "near_duplicate_pairs": 1,
        "near_duplicates": [{"first": "1", "second": "2"}],
    },
    "student": {**SCORING, **SIZES, "full_hash": "f1", "schedule_hash": "s1", "query_hash": "q1"},
    "joined": {"tables": [{**SCORED, "counterfactuals": HASHES}, {"grouping_hash": "g1", "model": "clip"}]},
    "custom": {"grouping_hash": "g1", "query_hash": "q1", "model": "clip"},
}


def rows() -> pa.Table:
    columns = {"query": ["q", "q"], "group": ["a", "b"], "score": [1.5, -0.5], "stderr": [0.1, 0.2]}
    rest = {"n_draws": [4, 4], "method": ["m", "m"], "weighting": ["elbo", "elbo"], "seed": [0, 0]}
    return pa.table({**columns, **rest})


def write(path: Path, about: dict[str, Any]) -> Path:
    metadata = {"guda_lightning": json.dumps(about, sort_keys=True, separators=(",", ":"))}
    write_parquet_by_hand(path, rows().replace_schema_metadata(metadata))
    return path


@pytest.mark.parametrize("kind", OLD)
def test_a_record_that_does_not_name_its_kind_is_told_by_its_entries(kind: str) -> None:
    record = ScoreRecord.from_json(OLD[kind])
    assert record.kind == kind
    assert record.to_json() == OLD[kind]
    assert record.hash == sha256_json(OLD[kind])


def test_joined_scores_per_sample_stay_per_sample() -> None:
    record = {"tables": [{**table, "per": "sample"} for table in OLD["joined"]["tables"]]}
    assert ScoreRecord.from_json(record).per == "sample"


@pytest.mark.parametrize("kind", OLD)
def test_every_kind_comes_back_from_its_file(kind: str, tmp_path: Path) -> None:
    record = ScoreRecord.from_json(OLD[kind])
    ScoreTable(rows(), record).save(tmp_path / "table.parquet")
    metadata = pq.read_schema(tmp_path / "table.parquet").metadata
    assert json.loads(metadata[b"guda_lightning"]) == {"format": 2, "kind": kind, "record": OLD[kind]}
    loaded = ScoreTable.load_record(tmp_path / "table.parquet")
    assert loaded == record
    assert torch.equal(
        ScoreTable.load(tmp_path / "table.parquet").matrix(), torch.tensor([[1.5, -0.5]]).double()
    )
    assert type(loaded.details) is type(record.details)


def test_a_record_is_typed() -> None:
    record = ScoreRecord.from_json(OLD["likelihood"])
    assert record.provenance == Provenance("f1", "s1", "g1")
    assert (record.full_hash, record.grouping_hash, record.query_hash) == ("f1", "g1", "q1")
    assert record.scoring == ScoringRecord(3, PLAN, "within strata", "fp32")
    assert record.details == kinds.Likelihood(
        counterfactuals=HASHES, hparams_hash="h1", weightings=["elbo", "uniform", "middle"]
    )
    assert record.details.weights == {"ca", "cb"}
    similar = ScoreRecord.from_json(OLD["similarity"])
    assert (similar.full_hash, similar.scoring, similar.grouping_hash) == (None, None, "g1")
    assert not similar.details.weights
    assert ScoreRecord.from_json(OLD["race"]).details.weights == {"c1"}  # one classifier makes all models
    joined = ScoreRecord.from_json(OLD["joined"]).details
    assert isinstance(joined, Joined)
    assert [one.kind for one in joined.tables] == ["likelihood", "custom"]


def test_screened_scores_come_back_alone_and_joined() -> None:
    screened = {"screen": "s1", "screened_by": "guidance", "screen_weighting": "elbo", "out": ["c"]}
    record = ScoreRecord.from_json({**OLD["likelihood"], **screened}, "screened")
    assert record.details == kinds.Screened(
        counterfactuals=HASHES,
        hparams_hash="h1",
        weightings=["elbo", "uniform", "middle"],
        screen="s1",
        screened_by="guidance",
        screen_weighting="elbo",
        out=["c"],
    )
    joined = ScoreRecord(Joined(tables=(record,)))
    assert ScoreRecord.from_stored(joined.to_stored()) == joined
    assert record.details.weights == {"ca", "cb"}


def test_chunks_of_queries_do_not_tell_tables_apart(tmp_path: Path) -> None:
    old = {**OLD["likelihood"], "chunks": [{"queries": 2, "query_hash": "x"}]}
    path = write(tmp_path / "table.parquet", {"format": 2, "kind": "likelihood", "record": old})
    record = ScoreTable.load_record(path)
    assert record.chunks == (ChunkRecord(2, "x"),)
    assert ScoreTable.is_complete(path, replace(record, chunks=()))
    assert not ScoreTable.is_complete(path, replace(record, query_hash="others"))
    assert not ScoreTable.is_complete(tmp_path / "none.parquet", record)


@pytest.mark.parametrize(
    ("about", "found"),
    [
        ({"format": 3, "kind": "custom", "record": {}}, "format 3 instead of 2"),
        (
            {"format": 2, "kind": "guess", "record": {}},
            "scores of the kind 'guess' instead of likelihood, screened, ensemble, race, coalitions, "
            "set worth, similarity, nonparametric, influence, student, random groups, custom, joined",
        ),
        (
            {"format": 2, "kind": "similarity", "record": {"top": 10, "bottom": 1}},
            "a record of similarity with the entries bottom, top; it needs images_hash, mirrored, top",
        ),
    ],
)
def test_what_this_version_does_not_know(about: dict[str, Any], found: str, tmp_path: Path) -> None:
    path = write(tmp_path / "table.parquet", about)
    expected = message(
        f"{path} cannot be read",
        found,
        "a score table written by guda-lightning",
        "remove the file and rerun guda attribute",
    )
    with pytest.raises(StoreError, match=expected):
        ScoreTable.load_record(path)
