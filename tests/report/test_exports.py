"""What ``guda report --format`` writes, against what docs/page.md says of it, and against the run folder."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
from collections.abc import Mapping
from html import unescape
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from guda_lightning import ScoreTable
from guda_lightning.cli.main import main
from guda_lightning.report.nearest import NearestImages
from guda_lightning.scores.views import views
from guda_lightning.storage.runs import RunFolder

CONF = Path(__file__).parents[1] / "conf"
NAMES, NUMBERS = [str], [[(int, float)]]
# Of docs/page.md: a type, types to choose from, or a list or object of such.
SCHEMA: Mapping[str, Any] = {
    "format": int,
    "generator": str,
    "title": str,
    "out_of": int,
    "queries": NAMES,
    "prompts": [(str, type(None))],
    "groups": NAMES,
    "facts": dict,
    "tables": [{"name": str, "facts": dict}],
    "views": [
        {
            "table": str,
            "method": str,
            "weighting": str,
            "seeds": [int],
            "standing": {"level": str, "headline": str, "size": str, "shown": str, "unclear": str},
            "unit": {"name": str, "symbol": str, "why": str, "covers": str, "sized": bool},
            "scores": NUMBERS,
            "stderr": NUMBERS,
            "margins": [(int, float, type(None))],
            "unattributable": [bool],
            "summary": [{"mean": (int, float), "stderr": (int, float), "top": int}],
            "verdicts": [(dict, type(None))],
        }
    ],
}


def check(value: Any, schema: Any, where: str = "report") -> None:
    if isinstance(schema, Mapping):
        assert value.keys() == schema.keys(), where
        for name, part in schema.items():
            check(value[name], part, f"{where}.{name}")
    elif isinstance(schema, list):
        assert isinstance(value, list), where
        for one in value:
            check(one, schema[0], f"{where}[]")
    else:
        assert isinstance(value, schema), f"{where}: {value!r}"


def test_the_command_writes_json_and_csv_of_all_tables_of_the_queries(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished_run = finished_run.rename(finished_run.with_name("a tiny run"))
    run = RunFolder(finished_run)
    table = ScoreTable.load(run.scores / "retrack-0.parquet")
    few = table.table.filter([group != "3" for group in table.table["group"].to_pylist()])
    ScoreTable(few, table.record).save(run.scores / "few-0.parquet")  # about other groups
    shutil.copyfile(run.scores / "retrack-0.parquet", run.scores / "retrack-0-again.parquet")
    first = str(run.scores / "retrack-0.parquet")
    assert main(["report", str(finished_run), "--scores", first, "--format", "json"]) == 0
    path = run.report / "report.json"
    assert capsys.readouterr().out == f"report: {path} written\n"
    report = json.loads(path.read_text())
    check(report, SCHEMA)
    said = Path(__file__).parents[2].joinpath("docs/page.md").read_text()
    for name in (*SCHEMA, *(f".{name}" for name in SCHEMA["views"][0])):
        assert re.search(rf"^\| .*`(views\[\])?{re.escape(name)}`", said, re.MULTILINE), name
    assert [one["name"] for one in report["tables"]] == ["retrack-0", "retrack-0-again"]
    for shown, view in zip(report["views"], views(table), strict=False):
        torch.testing.assert_close(torch.tensor(shown["scores"], dtype=torch.float64), view.scores)
        assert shown["summary"][0]["mean"] == pytest.approx(float(view.scores[:, 0].mean()))
    facts = report["facts"]
    assert facts["Data"] == "Digits (limit 64)"
    assert re.fullmatch(r"10 groups of \d+ to \d+ training samples \(0: \d+, .*\)", facts["Groups"])
    assert report["tables"][0]["facts"]["Command"] == "guda attribute -c CONFIG --operator retrack"

    assert main(["report", str(finished_run), "--scores", first, "--format", "csv"]) == 0
    with (run.report / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(v["scores"]) * len(report["groups"]) for v in report["views"])
    row, view = rows[-1], report["views"][-1]
    assert float(row["score"]) == view["scores"][-1][-1]
    assert (row["table"], row["level"]) == ("retrack-0-again", "untested")

    assert main(["report", str(finished_run), "--scores", first]) == 0
    page = (run.report / "index.html").read_text()
    found = re.search(r"<li><b>few-0</b>: about other groups. <code>(.*?)</code></li>", page)
    assert found is not None
    assert shlex.split(unescape(found[1])) == [
        *("guda", "report", str(finished_run)),
        *("--scores", str(run.scores / "few-0.parquet")),
    ]


def data_of(run: Path) -> Any:
    assert main(["report", str(run)]) == 0
    page = (run / "report" / "index.html").read_text()
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_noise_levels_sum_to_the_scores_and_nearest_images_are_those_of_the_top_group(
    finished_run: Path,
) -> None:
    run, data = RunFolder(finished_run), data_of(finished_run)
    report = data["report"]
    for shown, drawn in zip(report["views"], data["views"], strict=True):
        scores = torch.tensor(shown["scores"])
        for q, rows in enumerate(drawn["levels"]["queries"]):
            assert [g for g, _ in rows] == scores[q].topk(3).indices.tolist()
            for g, added in rows:
                assert sum(added) == pytest.approx(float(scores[q, g]), rel=0.02, abs=0.02)
        bands = drawn["levels"]["bands"]
        assert bands[0][0] == 1 and bands[-1][1] == 48 and drawn["levels"]["last"] == 49
        assert all(last + 1 == first for (_, last), (first, _) in pairwise(bands))
    table = run.scores / "retrack-0.parquet"
    path = run.nearest_of(table)
    kept = NearestImages.load(path)
    nearest = data["tables"][0]["nearest"]
    assert kept.of == ScoreTable.load_record(table).hash
    for shown in report["views"]:
        for q, scores in enumerate(shown["scores"]):
            top = scores.index(max(scores))
            found = nearest["found"][f"{q},{top}"]
            assert [distance for _, distance in found] == sorted(distance for _, distance in found)
            picture = Image.open(
                run.queries_of(run.scores / "retrack-0.parquet") / f"{report['queries'][q]}.png"
            )
            query = torch.tensor(list(picture.tobytes())).view(8, 8) / 127.5
            for place, distance in found:
                image = kept.images[place, 0].float() / 127.5
                assert float((query - image).square().mean()) == pytest.approx(distance, rel=0.01)
    path.unlink()  # as of a run of before
    assert data_of(finished_run)["tables"][0]["nearest"] is None


def test_an_interruption_of_the_nearest_images_loses_neither_these_nor_the_scores(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(finished_run)
    table = run.scores / "retrack-0.parquet"
    whole, command = ScoreTable.load(table), ["attribute", "-c", f"{CONF}/digits.yaml"]
    command += ["-c", f"{CONF}/attribute.yaml", "--run", str(finished_run)]
    table.unlink()
    run.nearest_of(table).unlink()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("guda_lightning.stages.nearest.nearest_samples", interrupt)
        assert main(command) == 130
    assert not table.exists()  # a table that is there counts as complete
    capsys.readouterr()
    assert main(command) == 0
    assert "attribute: 5 of 5 queries are scored already" in capsys.readouterr().out
    assert ScoreTable.load(table).record == whole.record and run.nearest_of(table).exists()
