"""The page of a run folder: everything on it comes from what the stages left there."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from guda_lightning import CounterfactualStore, ScoreTable
from guda_lightning.cli.main import main
from guda_lightning.evaluation.placebo_test import placebo_frame, placebo_tests
from guda_lightning.evaluation.result import Evaluation
from guda_lightning.report import without_section
from guda_lightning.report.placebo_section import placebo_lines
from guda_lightning.report.run import report_run
from guda_lightning.scores import ScoreRecord
from guda_lightning.scores.kinds import Custom, Ensemble, RandomGroups, Similarity
from guda_lightning.scores.views import views
from toys import edit_json

CONF = Path(__file__).parents[1] / "conf"


def with_seed(table: ScoreTable, seed: int) -> ScoreTable:
    """The table as if it had been scored on other noise."""
    assert table.record.scoring is not None
    scoring = replace(table.record.scoring, seed=seed)
    return replace(table, record=replace(table.record, scoring=scoring))


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
    assert table.record.full_hash == full["full_hash"]


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
    edit_json(finished_run / "full" / "record.json", lambda record: record | {"full_hash": "of another one"})
    assert "Training" not in text_of(report_run(finished_run))
    shutil.rmtree(finished_run / "full")
    assert "Training" not in text_of(report_run(finished_run))


def put_evaluation(run: Path, evaluation: Evaluation, query_hash: str | None = None) -> None:
    """Write it as if `guda evaluate` had compared the tables that the run folder has."""
    table = ScoreTable.load(run / "scores" / "retrack-0.parquet")
    hashes = {"methods": {"retrack-0": table.record.hash}}
    hashes["oracles"] = evaluation.record["oracles"]
    record = {**evaluation.record, **hashes, "query_hash": query_hash or table.record.query_hash}
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
    with_seed(table, 9).save(path)
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
                    record=ScoreRecord(Custom()),
                )
            )
    twins = [{"first": "<b>1</b>", "second": "2"}]
    details = RandomGroups(
        of=table.record.hash, partitions=99, level=0.05, near_duplicate_pairs=1, near_duplicates=twins
    )
    random = ScoreTable(ScoreTable.concat(parts).table, ScoreRecord(details))
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
            query
            for query, mark in zip(data["report"]["queries"], view["unattributable"], strict=True)
            if mark
        ]
        for view in data["report"]["views"]
    }
    frame = placebo_frame(table, tests)
    missed = frame[~frame["attributable"]]
    assert marked == {
        name: missed["query"][missed["weighting"] == name].tolist() for name in table.weightings
    }

    with_seed(table, 9).save(path)
    text = text_of(report_run(finished_run))
    assert "Placebo groups scored again since" in text
    assert "ot attributable" not in text


def draw(run: Path, *options: str) -> None:
    """What `guda sample --without` draws."""
    shared = ["-c", f"{CONF}/digits.yaml", "-c", f"{CONF}/sample.yaml", "--run", str(run)]
    assert main(["sample", *shared, *options]) == 0


@pytest.fixture
def drawn_run(shared: Callable[..., Path], _finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run with the pictures without each of its groups."""

    def make(folder: Path) -> None:
        draw(Path(shutil.copytree(_finished_run, folder / "tiny")), "--without", "all")

    return Path(shutil.copytree(shared("drawn_page", make) / "tiny", tmp_path / "drawn"))


def keep_alone(run: Path, *groups: str) -> None:
    """Leave the pictures without these groups, as if no others had been drawn and compared."""
    drawn = run / "without" / "retrack"
    (drawn / "distances.parquet").unlink()
    for folder in drawn.iterdir():
        if folder.name not in groups:
            shutil.rmtree(folder)


class Section(HTMLParser):
    """The section of pictures: titles of columns, and the attributes of every picture and its cell by row."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.titles: list[str] = []
        self.rows: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
        self._cell: dict[str, Any] = {}
        text = re.search(r'<section id="without".*?</section>', page.read_text(), re.DOTALL)[0]
        self.text = " ".join(unescape(re.sub(r"<[^>]+>", " ", text)).split())
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        if tag == "th" and found["scope"] == "col":
            self.titles.append(found.get("title", "full"))
        elif tag == "th":
            self.rows[found["title"]] = []
        elif tag == "td":
            self._cell = found
        elif tag == "img":
            list(self.rows.values())[-1].append((self._cell, found))

    def pixels(self, query: str) -> list[bytes]:
        data = [image["src"].removeprefix("data:image/png;base64,") for _, image in self.rows[query]]
        return [Image.open(io.BytesIO(base64.b64decode(one))).tobytes() for one in data]


def test_pictures_stand_beside_those_of_the_full_model(drawn_run: Path) -> None:
    section = Section(report_run(drawn_run))
    table = ScoreTable.load(drawn_run / "scores" / "retrack-0.parquet")
    part = views(table)[0]
    scores = part.scores
    groups = [table.groups[g] for g in scores.mean(dim=0).argsort(descending=True)]
    assert section.titles == ["full", "full", *groups]  # query, full model, and the groups by influence
    rows = [table.queries[q] for q in scores.amax(dim=1).argsort(descending=True)]
    assert list(section.rows) == rows
    assert (
        "from the same noise: retrack, seed of the counterfactuals 0; pictures in 10 steps, seed 0. "
        "Outlined: the query's top group." in section.text
    )
    for query, cells in section.rows.items():
        folders = ["queries", *(f"without/retrack/{group}" for group in groups)]
        files = [drawn_run / folder / f"{query}.png" for folder in folders]
        assert section.pixels(query) == [Image.open(file).tobytes() for file in files]
        assert [cell for cell, _ in cells][1:] == [
            {"data-query": str(part.queries.index(query)), "data-group": str(part.groups.index(group))}
            for group in groups
        ]
        assert [image["alt"] for _, image in cells][:2] == [
            f"{query} of the full model",
            f"{query} without {groups[0]}",
        ]


def test_the_most_influential_groups_and_queries_are_kept(
    drawn_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Section(report_run(drawn_run))
    monkeypatch.setattr(without_section, "MAX_PICTURE_GROUPS", 2)
    monkeypatch.setattr(without_section, "MAX_PICTURE_QUERIES", 3)
    section = Section(report_run(drawn_run))
    assert section.titles == whole.titles[:4]
    assert section.rows == {query: cells[:3] for query, cells in list(whole.rows.items())[:3]}


def test_own_images_are_not_mistaken_for_the_queries(finished_run: Path) -> None:
    draw(finished_run, "--without", "3,7", "--num", "4")
    path = finished_run / "scores" / "retrack-0.parquet"
    table = ScoreTable.load(path)
    theirs = finished_run / "queries" / "record.json"
    record = json.loads(theirs.read_text())
    edit_json(theirs, lambda record: record | {"query_hash": "of others with the same names"})
    section = Section(report_run(finished_run))
    assert list(section.rows) == [f"sample-{index}" for index in range(4)]  # as drawn
    assert all(not cell for cells in section.rows.values() for cell, _ in cells)
    assert "Outlined" not in section.text
    assert table.record.query_hash == record["query_hash"]


def test_pictures_stand_beside_their_own_method_alone(drawn_run: Path) -> None:
    keep_alone(drawn_run, "3")
    own = drawn_run / "without" / "retrack" / "3"
    other = Path(shutil.copytree(own, drawn_run / "without" / "another" / "7"))
    change = {"operator": "another", "without": "7"}
    edit_json(other / "record.json", lambda record: {**record, "config": record["config"] | change})
    assert Section(report_run(drawn_run)).titles == ["full", "full", "3"]
    (own / "record.json").unlink()  # not complete
    page = report_run(drawn_run)
    assert 'id="without"' not in page.read_text()
    assert "With and without drawn, but not by this method" in text_of(page)


@pytest.mark.parametrize("changed", ["full_hash", "seed", "steps"])
def test_pictures_of_other_noise_or_another_model_are_not_shown(drawn_run: Path, changed: str) -> None:
    keep_alone(drawn_run, "3")
    path = drawn_run / "without" / "retrack" / "3" / "record.json"
    edit_json(path, lambda record: {**record, "config": record["config"] | {changed: "another"}})
    page = report_run(drawn_run)
    assert 'id="without"' not in page.read_text()
    said = "With and without drawn, but not by this method from the noise of the queries"
    assert said in text_of(page)


def test_without_pictures_there_is_no_section_of_them(finished_run: Path) -> None:
    page = report_run(finished_run)
    assert 'id="without"' not in page.read_text()
    assert "With and without" not in text_of(page)


def test_pictures_are_shown_beside_queries_only(drawn_run: Path) -> None:
    keep_alone(drawn_run, "3")
    shutil.rmtree(drawn_run / "queries")
    assert 'id="without"' not in report_run(drawn_run).read_text()
    draw(drawn_run, "--num", "3")  # now fewer than there are pictures
    assert list(Section(report_run(drawn_run)).rows) == ["sample-0", "sample-1", "sample-2"]


def test_the_page_says_what_its_numbers_claim(
    finished_run: Path, evaluation: Callable[..., Evaluation]
) -> None:
    text = text_of(report_run(finished_run))
    unsized = "share of the query's total, %. The size of retrack's scores is not known: it grows"
    assert f"No size claimed, order only: {unsized}" in text
    assert "Untested: nobody has measured here whether retrack ranks groups as retraining does." in text
    assert "Shown: retrack, weighting elbo, seed 0 (table retrack-0)." in text
    assert "Process unlearned from the full model (retrack), a stand-in for training without" in text
    assert "it covers noise draws only. What training anew would change is not in it." in text
    found = evaluation("retrack-0", weightings=("elbo", "uniform", "middle"))
    slope = (found.magnitudes["pooling"] == "all") & (found.magnitudes["quantity"] == "slope")
    found.magnitudes.loc[slope, ["value", "low", "high"]] = [1.1, 0.9, 1.3]
    put_evaluation(finished_run, found)
    text = text_of(report_run(finished_run))
    assert (
        "Size claimed: nats. The size was measured: retraining's scores grow by 1.10 (0.90 to 1.30) for "
        "every 1 of these, on 5 groups." in text
    )
    assert "Yardstick 2 retrained seeds of every group; the same top group in" in text


def test_other_seeds_stand_behind_the_error(finished_run: Path) -> None:
    scores = finished_run / "scores"
    table = ScoreTable.load(scores / "retrack-0.parquet")
    frame = table.to_pandas().assign(seed=1)
    frame["score"] *= 3
    other = table.table.from_pandas(frame, schema=table.table.schema, preserve_index=False)
    # Each seed has counterfactuals of its own; half of those that there are stand for them.
    held = sorted(table.record.details.counterfactuals.items())
    halves = [replace(table.record.details, counterfactuals=dict(held[start::2])) for start in (0, 1)]
    ScoreTable(table.table, replace(table.record, details=halves[0])).save(scores / "retrack-0.parquet")
    details = halves[1]
    ScoreTable(other, replace(table.record, details=details)).save(scores / "retrack-1.parquet")
    os.utime(scores / "retrack-1.parquet", ns=(1, 1))  # the page is about the newest, seed 0
    page = report_run(finished_run)
    data = json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)[1])
    assert [view["seeds"] for view in data["report"]["views"]] == [[0, 1]] * 3
    assert "it covers noise draws and 2 training seeds." in text_of(page)
    cost = [one.network_evaluations for one in CounterfactualStore(finished_run / "store").records()]
    facts = data["report"]["tables"][0]["facts"]
    assert facts["Table"] == "retrack-0, retrack-1"
    assert facts["Command"] == "guda attribute -c CONFIG --operator retrack --seed 0,1"
    assert facts["File dated"].startswith("1970-01-01, 20")
    assert facts["Unlearning"].endswith(f" s, {sum(cost):,} network evaluations")
    alone = text_of(report_run(finished_run, scores / "retrack-0.parquet"))
    assert "it covers noise draws only." in alone
    assert f"{sum(cost):,} network evaluations" not in alone


def test_the_data_are_named_without_secrets_and_folders(finished_run: Path) -> None:
    options = {
        "name": "uoft-cs/cifar10",
        "token": "hf_secret",
        "aws_secret_access_key": "hf_secret",
        "folder": "/home/somebody/pictures",
    }

    def on_the_hub(record: dict[str, Any]) -> dict[str, Any]:
        source = {"class_path": "a.HubImages", "init_args": options}
        record["config"]["data"]["init_args"]["source"] = source
        return record

    edit_json(finished_run / "full" / "record.json", on_the_hub)
    page = report_run(finished_run)
    assert "HubImages (folder pictures, name uoft-cs/cifar10" in text_of(page)
    assert "hf_secret" not in page.read_text() and "somebody" not in page.read_text()


@pytest.mark.parametrize(("members", "shown"), [((6, 6), [0, 1]), ((6, 8), [0])])
def test_ensembles_of_other_members_are_no_seeds_of_one(
    finished_run: Path, members: tuple[int, int], shown: list[int]
) -> None:
    scores = finished_run / "scores"
    table = ScoreTable.load(scores / "retrack-0.parquet")
    hashes = list(table.record.details.weights)
    for seed, count in enumerate(members):
        details = Ensemble(
            counterfactuals={group: f"without {group}" for group in table.groups},
            members=hashes[:count],
            unseen={group: [0, 1, 2] for group in table.groups},
        )
        frame = table.to_pandas().assign(seed=seed, method="ensemble")
        rows = table.table.from_pandas(frame, schema=table.table.schema, preserve_index=False)
        path = scores / f"ensemble-{seed}.parquet"
        ScoreTable(rows, replace(table.record, details=details)).save(path)
        os.utime(path, ns=(9 - seed, 9 - seed))  # the first is the newest
        shutil.copytree(scores / "queries" / "retrack-0", scores / "queries" / path.stem)
    (scores / "retrack-0.parquet").unlink()
    page = report_run(finished_run).read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert [view["seeds"] for view in data["report"]["views"]][:3] == [shown] * 3


def test_the_newest_table_of_a_method_comes_before_the_oracles(finished_run: Path) -> None:
    scores = finished_run / "scores"
    shutil.copyfile(scores / "retrack-0.parquet", scores / "retrain-0.parquet")
    assert "Shown: retrack, weighting elbo, seed 0 (table retrack-0)." in text_of(report_run(finished_run))
    (scores / "retrack-0.parquet").unlink()
    shutil.copytree(scores / "queries" / "retrack-0", scores / "queries" / "retrain-0")
    assert "Shown: retrack, weighting elbo, seed 0 (table retrain-0)." in text_of(report_run(finished_run))


def test_a_method_without_counterfactuals_has_a_page(finished_run: Path) -> None:
    scores = finished_run / "scores"
    table = ScoreTable.load(scores / "retrack-0.parquet")
    kept = ScoreRecord(
        Similarity(images_hash="of the images", mirrored=False, top=10),
        query_hash=table.record.query_hash,
        grouping_hash=table.record.grouping_hash,
    )
    frame = table.select(weighting="elbo").to_pandas().assign(method="similarity", weighting="cosine")
    similar = table.table.from_pandas(frame, schema=table.table.schema, preserve_index=False)
    ScoreTable(similar, kept).save(scores / "similarity-0.parquet")
    shutil.copytree(scores / "queries" / "retrack-0", scores / "queries" / "similarity-0")
    (scores / "retrack-0.parquet").unlink()
    text = text_of(report_run(finished_run))
    assert "Method similarity" in text
    assert "Unlearning" not in text and "Full model" not in text
    assert "likely" not in text and "likelihood" not in text  # what is alike says nothing of a model
