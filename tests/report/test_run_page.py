"""The page of a run folder: everything on it comes from what the stages left there."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path

import torch

from guda_lightning import CounterfactualStore, ScoreTable
from guda_lightning.files import sha256_json
from guda_lightning.report.evaluation import Evaluation
from guda_lightning.report.placebo import placebo_frame, placebo_lines, placebo_tests
from guda_lightning.report.run import report_run


def text_of(page: Path) -> str:
    body = re.sub(r"<(script|style)\b.*?</\1>", " ", page.read_text(), flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_the_page_tells_where_the_scores_come_from(finished_run: Path) -> None:
    page = report_run(finished_run)
    assert page == finished_run / "report" / "index.html"
    text = text_of(page)
    full = json.loads((finished_run / "full" / "record.json").read_text())
    table = ScoreTable.load(finished_run / "scores" / "retrack-0.parquet")
    records = CounterfactualStore(finished_run / "store").records()
    evaluations = sum(record.network_evaluations for record in records)
    for fact in (
        finished_run.name,
        full["full_hash"][:16],
        full["grouping_hash"][:16],
        "retrack, 4 steps a group",
        f"{evaluations:,} network evaluations",
        "5 strata (unbiased) x 2 draws of 1 <= t <= 48",
        "within strata",
        "12 steps",
    ):
        assert fact in text, fact
    assert table.record["full_hash"] == full["full_hash"]


def test_the_page_needs_no_other_file_and_is_the_same_again(finished_run: Path) -> None:
    content = report_run(finished_run).read_bytes()
    assert report_run(finished_run).read_bytes() == content
    assert not re.search(rb'(?:src|href)="(?!data:|#)', content)
    assert str(finished_run.parent).encode() not in content  # nobody else's computer has this folder


def test_the_page_shows_the_newest_table_unless_one_is_named(finished_run: Path) -> None:
    old = finished_run / "scores" / "retrack-0.parquet"
    new = finished_run / "scores" / "retrack-0-mine.parquet"
    shutil.copytree(finished_run / "scores/queries/retrack-0", finished_run / "scores/queries/retrack-0-mine")
    table = ScoreTable.load(old)
    halves = [table.select(weighting=weighting) for weighting in ("elbo", "uniform")]
    ScoreTable.concat(halves[:1]).save(new)
    os.utime(old, ns=(1, 1))
    newest = report_run(finished_run).read_bytes()
    assert report_run(finished_run, new).read_bytes() == newest
    assert report_run(finished_run, old).read_bytes() != newest


def test_a_full_model_of_somebody_else_has_no_training_to_tell(finished_run: Path) -> None:
    record = finished_run / "full" / "record.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "full_hash": "of another one"}))
    assert "Training" not in text_of(report_run(finished_run))
    shutil.rmtree(finished_run / "full")
    assert "Training" not in text_of(report_run(finished_run))


def put_evaluation(run: Path, evaluation: Evaluation, query_hash: str | None = None) -> None:
    """Write it as if `guda evaluate` had compared the tables that the run folder has."""
    table = ScoreTable.load(run / "scores" / "retrack-0.parquet")
    hashes = {"methods": {"retrack-0": sha256_json(table.record)}}
    hashes["oracles"] = evaluation.record["oracles"]
    record = {**evaluation.record, **hashes, "query_hash": query_hash or table.record["query_hash"]}
    replace(evaluation, record=record).save(run / "evaluation")


def test_an_evaluation_of_these_queries_is_shown_until_tables_change(
    finished_run: Path, evaluation: Callable[..., Evaluation]
) -> None:
    put_evaluation(finished_run, evaluation("retrack-0"))
    text = text_of(report_run(finished_run))
    assert "Agreement with retraining" in text
    assert "40 queries, 5 groups, 2 oracle seeds (0, 1)" in text
    assert "Scored again since" not in text
    path = finished_run / "scores" / "retrack-0.parquet"
    table = ScoreTable.load(path)
    ScoreTable(table.table, {**table.record, "scored": "again"}).save(path)
    assert "Scored again since: retrack-0. Run guda evaluate again." in text_of(report_run(finished_run))


def test_an_evaluation_of_other_queries_is_not_shown(
    finished_run: Path, evaluation: Callable[..., Evaluation]
) -> None:
    put_evaluation(finished_run, evaluation("retrack-0"), query_hash="of other queries")
    assert "Agreement with retraining" not in text_of(report_run(finished_run))


def put_placebo(run: Path) -> ScoreTable:
    """Write it as if `guda placebo` had found random groups that influence every second query as much."""
    table = ScoreTable.load(run / "scores" / "retrack-0.parquet")
    parts = []
    for number in range(99):
        for weighting in table.weightings:
            real = table.select(weighting=weighting)
            even = torch.arange(len(real.queries)) % 2 == (0 if weighting == "elbo" else 1)
            parts.append(
                ScoreTable.from_matrix(
                    real.matrix() + torch.where(even, 1.0, -1.0)[:, None],
                    torch.zeros(len(real.queries), len(real.groups)),
                    query_ids=real.queries,
                    groups=[f"placebo {number}/{group}" for group in real.groups],
                    n_draws=1,
                    method="retrack",
                    weighting=weighting,
                    seed=0,
                    record={},
                )
            )
    twins = [{"first": "<b>1</b>", "second": "2"}]
    record = {"of": sha256_json(table.record), "partitions": 99, "level": 0.05}
    record |= {"near_duplicate_pairs": 1, "near_duplicates": twins}
    random = ScoreTable(ScoreTable.concat(parts).table, record)
    random.save(run / "placebo" / "retrack-0.parquet")
    return random


def test_queries_that_random_groups_explain_as_well_are_told(finished_run: Path) -> None:
    assert "Placebo" not in text_of(report_run(finished_run))
    random = put_placebo(finished_run)
    path = finished_run / "scores" / "retrack-0.parquet"
    table = ScoreTable.load(path)
    tests = placebo_tests(table, random)
    page = report_run(finished_run)
    text = text_of(page)
    assert " ".join(["Placebo groups", *placebo_lines(table, random, tests)]) in text
    assert "Not attributable: sample-0, sample-2, sample-4." in text
    assert "Not attributable: sample-1, sample-3." in text
    assert "<b>1</b> and 2" in text
    data = json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)[1])
    marked = {
        view["weighting"]: [
            q["id"] for q, mark in zip(data["queries"], view["unattributable"], strict=True) if mark
        ]
        for view in data["views"]
    }
    frame = placebo_frame(table, tests)
    missed = frame[~frame["attributable"]]
    assert marked == {
        name: missed["query"][missed["weighting"] == name].tolist() for name in table.weightings
    }

    ScoreTable(table.table, {**table.record, "scored": "again"}).save(path)
    text = text_of(report_run(finished_run))
    assert "Placebo groups scored again since" in text
    assert "ot attributable" not in text


def test_the_newest_table_of_a_method_comes_before_the_oracles(finished_run: Path) -> None:
    scores = finished_run / "scores"
    shown = report_run(finished_run).read_bytes()
    shutil.copyfile(scores / "retrack-0.parquet", scores / "retrain-0.parquet")
    assert report_run(finished_run).read_bytes() == shown
    (scores / "retrack-0.parquet").unlink()
    shutil.copytree(scores / "queries" / "retrack-0", scores / "queries" / "retrain-0")
    assert report_run(finished_run).read_bytes() == shown  # the same scores, under another name


def test_a_method_without_counterfactuals_has_a_page(finished_run: Path) -> None:
    scores = finished_run / "scores"
    table = ScoreTable.load(scores / "retrack-0.parquet")
    kept = {name: table.record[name] for name in ("query_hash", "grouping_hash")}
    frame = table.select(weighting="elbo").to_pandas().assign(method="similarity", weighting="cosine")
    similar = table.table.from_pandas(frame, schema=table.table.schema, preserve_index=False)
    ScoreTable(similar, kept).save(scores / "similarity-0.parquet")
    shutil.copytree(scores / "queries" / "retrack-0", scores / "queries" / "similarity-0")
    text = text_of(report_run(finished_run))
    assert "Method similarity" in text
    assert "Unlearning" not in text and "Full model" not in text
