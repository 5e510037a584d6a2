"""Groups and queries of any name, from the table that assigns them to the page that shows them."""

from __future__ import annotations

import csv
import json
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import wandb_files
from guda_lightning import ScoreTable
from guda_lightning.attribution import PixelSimilarity
from guda_lightning.cli.main import main
from guda_lightning.stages.choices import table_of
from guda_lightning.storage.runs import RunFolder

CONF = Path(__file__).parent / "conf"
DECOMPOSED = unicodedata.normalize("NFD", "café")
NAMES = [
    "null", "1e5", "own", "image", "__metadata__", "heatmap", "-x", "Doe, Jane", "c++", "a/b", "a-b",
    DECOMPOSED, "two\nlines", "</script>" + "\u4e2d" * 300,
]  # fmt: skip


def guda(run: Path, stage: str, *arguments: object) -> None:
    conf = [CONF / f"{name}.yaml" for name in ("digits", stage) if (CONF / f"{name}.yaml").exists()]
    configs = [part for file in [*conf, run.parent / "groups.yaml"] for part in ("-c", str(file))]
    assert main([stage, *configs, "--run", str(run), *map(str, arguments)]) == 0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run on digits that are dealt to groups of these names."""
    folder = tmp_path_factory.mktemp("names")
    with (folder / "groups.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerows([["id", "group"], *([str(i), NAMES[i % len(NAMES)]] for i in range(1797))])
    data = {"init_args": {"groups": str(folder / "groups.csv")}}
    (folder / "groups.yaml").write_text(json.dumps({"data": data}))
    run = folder / "run"
    unwatched = ("--trainer.limit_val_batches", 0)
    guda(run, "fit", *unwatched)
    guda(run, "sample", "--num", 2)
    guda(run, "unlearn", "--trainer.callbacks", "null", "--steps", 1, *unwatched)
    wandb = {"project": "p", "offline": True, "save_dir": str(folder)}
    guda(run, "attribute", "--trainer.logger", json.dumps({"class_path": "WandbLogger", "init_args": wandb}))
    assert main(["report", str(run)]) == 0
    return run


def test_every_group_is_scored_and_shown_under_its_name(run: Path) -> None:
    table = ScoreTable.load(run / "scores/retrack-0.parquet")
    assert sorted(table.groups) == sorted(NAMES)
    scores = table.select(weighting="elbo").matrix()

    logged = wandb_files.runs(run.parent)["attribute retrack-0"]
    columns, rows, _ = logged.table("attribution/scores")
    assert len(set(columns)) == len(columns) == 9 + 2 * len(NAMES)
    place = 6 + 2 * table.groups.index("image")
    assert columns[place : place + 2] == ["group image", "group image ±"]
    shares = 100 * scores / scores.abs().sum(dim=1, keepdim=True)  # of retrack, whose size is not known
    assert [row[6:-3:2] for row in rows] == [pytest.approx(of_query) for of_query in shares.tolist()]

    page = (run / "report/index.html").read_text("utf-8")
    (embedded,) = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)
    shown = json.loads(embedded)
    assert shown["report"]["groups"] == list(table.groups)
    assert all(shown["examples"])


@pytest.mark.parametrize("names", [["-x"], NAMES])
def test_groups_are_chosen_by_their_names(run: Path, names: list[str]) -> None:
    one = run / "scores/retrack-0-one.parquet"
    spelt = [unicodedata.normalize("NFC", name) for name in names]
    guda(run, "attribute", "--name", "one", "--groups", ",".join(spelt))
    assert ScoreTable.load(one).groups == tuple(names)


def test_yaml_names_groups_with_and_without_quotes(run: Path, tmp_path: Path) -> None:
    plain = ["null", "1e5", "own"]
    quoted = [json.dumps(unicodedata.normalize("NFC", name)) for name in NAMES if name not in plain]
    (tmp_path / "g.yaml").write_text(f"groups: [{', '.join([*plain, *quoted])}]\n")
    guda(run, "attribute", "--name", "listed", "-c", tmp_path / "g.yaml")
    listed = ScoreTable.load(run / "scores/retrack-0-listed.parquet").groups
    assert listed == tuple(plain + [name for name in NAMES if name not in plain])


def test_a_metric_of_a_group_is_no_other_metric(run: Path, tmp_path: Path) -> None:
    logger = {"class_path": "CSVLogger", "init_args": {"save_dir": str(tmp_path)}}
    guda(run, "unlearn", "--groups", "own,heatmap", "--seed", 1, "--trainer.logger", json.dumps(logger))
    logged = [file.read_text().partition("\n")[0].split(",") for file in tmp_path.rglob("metrics.csv")]
    of_groups = [sorted(name for name in one if name.startswith("influence/")) for one in logged]
    assert sorted(of_groups) == [
        ["influence/group heatmap", "influence/other", "influence/own"],
        ["influence/group own", "influence/other", "influence/own"],
    ]


def test_pictures_without_a_group_have_a_folder_of_their_own(run: Path) -> None:
    guda(run, "sample", "--num", 2, "--without", "null,Doe, Jane,a/b,a-b", "--operator", "retrack")
    records = [path.read_text() for path in run.glob("without/retrack/*/record.json")]
    made = [json.loads(record)["config"]["without"] for record in records]
    assert sorted(made) == ["Doe, Jane", "a-b", "a/b", "null"]


def test_queries_that_differ_have_tables_that_differ(run: Path, tmp_path: Path) -> None:
    tables, given = run / "scores", []
    for value, name in enumerate(["a.png", "a.bmp", "b/a.png", "a.b/1.png", "\u0444/1.png", "\u0439/1.png"]):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8), 30 * value, np.uint8)).save(path)
        given.append(path.parent if path.stem == "1" else path)
    before, hashes = set(tables.glob("*.parquet")), []
    for queries in (given, given[1:2]):  # again: what is complete is found
        for query in queries:
            guda(run, "attribute", "--attributor", PixelSimilarity.__name__, "--queries", query)
        made = sorted(set(tables.glob("*.parquet")) - before)
        hashes.append({path.stem: str(ScoreTable.load_record(path).query_hash) for path in made})
    assert hashes[0] == hashes[1]
    assert len(set(hashes[0].values())) == len(given)
    plain = {name for name, digest in hashes[0].items() if not name.endswith(digest[:8])}
    assert plain == {"similarity-0-a", "similarity-0-unnamed"}


def test_tables_are_named_by_any_name_of_the_user(tmp_path: Path) -> None:
    def named(name: str | None) -> str:
        return table_of(RunFolder(tmp_path), "retrack", 0, None, name).name

    assert (named(None), named("mine")) == ("retrack-0.parquet", "retrack-0-mine.parquet")
    assert (
        len({named(name) for name in ("mine", "Mine", "\u0444", "\u0439", "a b", "a-b", "x" * 41, "x" * 42)})
        == 8
    )
