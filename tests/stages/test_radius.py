"""How far pictures move without groups: `guda sample --without`, against numpy on its PNGs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from attribution.own_encoder import Quarters
from guda_lightning.cli.main import main
from guda_lightning.report.distances import PIXELS
from guda_lightning.report.radius_section import radius_section
from guda_lightning.scores import ScoreTable
from guda_lightning.storage.frames import load_frame
from guda_lightning.storage.runs import RunFolder
from toys import edit_json
from wandb_files import runs

CONF = Path(__file__).parents[1] / "conf"
ENCODER = ("--encoder", "attribution.own_encoder.Quarters")
WANDB = (
    *("--trainer.logger", "lightning.pytorch.loggers.WandbLogger"),
    *("--trainer.logger.init_args.project", "tests", "--trainer.logger.init_args.offline", "true"),
)


@pytest.fixture(autouse=True)
def _own_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))


def sample(run: Path, *options: object) -> None:
    shared = ("sample", "-c", f"{CONF}/digits.yaml", "-c", f"{CONF}/sample.yaml", "--run", str(run))
    assert main([*shared, *map(str, options)]) == 0


def images(folder: Path) -> NDArray[np.float64]:
    return np.stack([np.asarray(Image.open(path)) / 127.5 - 1 for path in sorted(folder.glob("*.png"))])


def rms(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.sqrt(np.square(one - other).reshape(len(one), -1).mean(axis=1)))


def quarters(pictures: NDArray[np.float64]) -> NDArray[np.float64]:
    return pictures.reshape(-1, 2, 4, 2, 4).mean(axis=(2, 4)).reshape(-1, 4)


def test_pixels_features_page_and_wandb_say_how_far(
    finished_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_dir = ("--trainer.logger.init_args.save_dir", finished_run)
    sample(finished_run, "--without", "3,7", *ENCODER, *WANDB, *save_dir)
    run = RunFolder(finished_run)
    frame, record = load_frame(run.distances("retrack"), "guda sample")
    wide = frame.pivot(index="query", columns="group", values=PIXELS)
    full = images(run.queries)
    for group in "37":
        without = images(run.without / "retrack" / group)
        assert wide[group].to_numpy() == pytest.approx(rms(full, without), abs=1e-6)
        of = frame[frame["group"] == group]
        assert of["quarters"].to_numpy() == pytest.approx(rms(quarters(full), quarters(without)), abs=1e-5)
    assert record["apart"][PIXELS] == pytest.approx(rms(full, np.roll(full, 1, axis=0)).mean(), abs=1e-6)
    assert record["encoder"] == "quarters 0.0"
    radius = wide.max(axis=1)
    told = capsys.readouterr().out
    assert f"sample: The radius of the median query is {radius.median():.3g}; " in told
    far = radius.idxmax()
    assert f"{far} moves most, {radius[far]:.3g} without {wide.loc[far].idxmax()}. " in told

    table = ScoreTable.load(finished_run / "scores" / "retrack-0.parquet")
    section = radius_section(run, table)
    assert section is not None and section.columns[-2:] == ["quarters, median", "quarters, largest"]
    assert sorted(row[0] for row in section.rows) == ["3", "7"]
    logged = runs(finished_run)["sample retrack-0"]
    assert logged.table("radius/answer")[1] == [[line] for line in section.lines]
    assert logged.table("radius/table")[1] == [list(row) for row in section.rows]
    assert main(["report", str(finished_run)]) == 0
    page = (finished_run / "report" / "index.html").read_text("utf-8")
    shown = page[page.index('<section id="without"') :]
    shown = shown[: shown.index("</section>")]
    for query, row in wide.iterrows():
        assert f"<small>radius {row.max():.3f}</small>" in shown, query
        assert all(f"<small>{value:.3f}</small>" in shown for value in row)
    assert '<section id="radius"' in page

    sample(finished_run, "--without", "3,7")  # complete: the feature stays
    assert capsys.readouterr().out.splitlines()[1:] == ["sample: 2 complete, skipped: 3, 7"]
    assert load_frame(run.distances("retrack"), "guda sample")[1] == record
    path = run.distances("retrack")
    shared = ("sample", "-c", f"{CONF}/digits.yaml", "-c", f"{CONF}/sample.yaml", "--run", str(finished_run))
    assert main([*shared, "--without", "0"]) == 2  # before anything is drawn
    assert not (run.without / "retrack" / "0").exists()
    assert capsys.readouterr().err == (
        "error: the pictures of other groups were measured in a feature, too\n"
        f"  found:    the column quarters in {path}, and no --encoder\n"
        "  expected: one encoder for all groups\n"
        f"  fix:      pass the --encoder that is called quarters, or remove {path}\n"
    )
    encoded = list[int]()
    encode = Quarters.__call__

    def counted(self: Quarters, images: torch.Tensor) -> torch.Tensor:
        encoded.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(Quarters, "__call__", counted)
    sample(finished_run, "--without", "0,3,7,9", *ENCODER)
    assert sum(encoded) == 5 + 5 + 2 * 5  # queries apart, queries once, and two new groups
    assert "sample: quarters of 10 pictures without groups, and of their queries\n" in capsys.readouterr().out
    more, _ = load_frame(path, "guda sample")
    assert set(more["group"]) == set("0379") and not more.isna().any(axis=None)
    pd.testing.assert_frame_equal(more[more["group"].isin(["3", "7"])].reset_index(drop=True), frame)


def test_groups_together_other_groups_and_other_seeds_are_in_no_radius(
    finished_run: Path,
) -> None:
    made = ("-c", f"{CONF}/digits.yaml", "-c", f"{CONF}/unlearn.yaml", "--run", str(finished_run))
    assert main(["unlearn", *made, "--groups", "3+7"]) == 0
    run = RunFolder(finished_run)
    sample(finished_run, "--without", "3+7")
    assert not run.distances("retrack").exists()
    sample(finished_run, "--without", "3,7")
    drawn = {
        group: rms(images(run.queries), images(path.parent))
        for path in run.without.glob("retrack/*/record.json")
        for group in [json.loads(path.read_text())["config"]["without"]]
    }
    assert set(drawn) == {"3", "7", "3+7"}
    table = ScoreTable.load(finished_run / "scores" / "retrack-0.parquet")
    assert main(["report", str(finished_run)]) == 0
    page = (finished_run / "report" / "index.html").read_text("utf-8")
    for single, joint in zip(np.maximum(drawn["3"], drawn["7"]), drawn["3+7"], strict=True):
        assert f"<small>radius {single:.3f}</small>" in page
        assert single == joint or f"<small>radius {joint:.3f}</small>" not in page
    section = radius_section(run, table)
    assert section is not None and {row[0] for row in section.rows} == {"3", "7"}
    left_out = "Not among these, as groups together, of other groupings or other seeds of counterfactuals: "
    assert section.lines[-1] == f"{left_out}3+7."

    path = run.without / "retrack" / "3" / "record.json"
    for entry, value in (("counterfactual_seed", 1), ("grouping_hash", "of other groups")):
        before = json.loads(path.read_text())["config"]
        edit_json(path, lambda record, new={entry: value}: {**record, "config": record["config"] | new})
        sample(finished_run, "--without", "7")
        section = radius_section(run, table)
        assert section is not None and [row[0] for row in section.rows] == ["7"]
        assert section.lines[-1] == f"{left_out}3, 3+7."
        edit_json(path, lambda record, old=before: {**record, "config": old})
    sample(finished_run, "--without", "7")
    assert table.record.provenance is not None
    other = replace(table.record, provenance=replace(table.record.provenance, grouping_hash="other"))
    assert radius_section(run, table) is not None
    assert radius_section(run, replace(table, record=other)) is None

    for group in "37":  # groups together are left alone
        path = run.without / "retrack" / group / "record.json"
        edit_json(path, lambda record: {**record, "config": record["config"] | {"counterfactual_seed": 1}})
    sample(finished_run, "--without", "3+7")
    assert radius_section(run, table) is None


def test_distances_of_other_pictures_are_not_shown(drawn_run: Path) -> None:
    run = RunFolder(drawn_run)
    table = ScoreTable.load(drawn_run / "scores" / "retrack-0.parquet")
    assert radius_section(run, table) is not None
    path = run.without / "retrack" / "3" / "record.json"
    other = {"counterfactual": "of another training"}
    edit_json(path, lambda record: {**record, "config": record["config"] | other})
    assert radius_section(run, table) is None
    assert main(["report", str(drawn_run)]) == 0
    page = (drawn_run / "report" / "index.html").read_text("utf-8")
    assert '<section id="without"' in page and '<section id="radius"' not in page


def test_an_encoder_is_about_pictures_without_groups(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["sample", "-c", f"{CONF}/digits.yaml", "--run", str(finished_run), *ENCODER]
    assert main(arguments) == 2
    assert capsys.readouterr().err == (
        "error: encoder is about counterfactuals, and the full model is drawn from\n"
        "  found:    encoder quarters\n"
        "  expected: groups, or none of these options\n"
        "  fix:      leave out --encoder, or pass --without GROUPS\n"
    )
