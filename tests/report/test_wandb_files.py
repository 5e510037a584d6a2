"""What W&B has on disk after offline runs, read back with its own reader."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import wandb
from diffusers import DDPMScheduler
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from guda_lightning import (
    CounterfactualStore,
    DiffusionModule,
    ELBOAttributionCallback,
    FullModel,
    GudaTrainer,
    PixelSimilarity,
    ScoreTable,
    Scoring,
    UnlearnModule,
)
from guda_lightning.cli.main import main
from guda_lightning.data import load_queries
from guda_lightning.data.images import from_unit
from guda_lightning.evaluation.result import Evaluation
from guda_lightning.posteriors.trained import RECALIBRATED
from guda_lightning.report import charts
from guda_lightning.report.artifacts import log_scores
from guda_lightning.report.attribution_log import OF_GROUPS
from guda_lightning.report.log_keys import LOGGED
from guda_lightning.report.pictures import CAPTION, CELL, GAP, side_by_side
from guda_lightning.scores import ScoreRecord
from guda_lightning.scores.kinds import Custom
from guda_lightning.storage.files import read_json, sha256_json
from guda_lightning.storage.runs import RunFolder
from guda_lightning.types import Queries
from guda_lightning.unlearning import ReTrack
from toys import quiet_trainer, shades, tiny_unet
from wandb_files import WandbFiles, runs

SCORING = Scoring(strata=2, draws=2)
SILENT = wandb.Settings(silent=True)
TITLES = ["query", "image", "source group", "top group", "margin", "undecided"]
TITLES += ["dark", "dark ±", "bright", "bright ±", "method", "weighting", "unit"]
IN_EVAL = "ignore:Found .* module.s. in eval mode"
pytestmark = [
    pytest.mark.filterwarnings(IN_EVAL),
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller"),
]


def logger(folder: Path, **arguments: Any) -> WandbLogger:
    return WandbLogger(project="guda", save_dir=folder, offline=True, **arguments)


def board(folder: Path, **arguments: Any) -> TensorBoardLogger:
    return TensorBoardLogger(folder, **{"name": "board", **arguments})


def trainer(folder: Path, loggers: Logger | list[Logger], **arguments: Any) -> GudaTrainer:
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "default_root_dir": folder / "toy",
    }
    return GudaTrainer(logger=loggers, **{**defaults, **arguments})


def model() -> DiffusionModule:
    return DiffusionModule(tiny_unet(), DDPMScheduler(20))


@pytest.fixture(autouse=True)
def _no_run_left() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    assert wandb.run is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder after every stage, each with a logger that W&B has never seen."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("stages")
    data = shades()
    watch = ELBOAttributionCallback(scoring=SCORING)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")  # Lightning takes no log_model beside offline=True
        uploads = WandbLogger(project="guda", save_dir=folder, log_model=True, settings=SILENT)
        trainer(folder, uploads, max_steps=2).fit_full(model(), data)
    trainer(folder, [logger(folder), CSVLogger(folder), board(folder)], callbacks=[watch]).unlearn(
        model(), data, ReTrack(), steps=2, groups=["dark", "bright"]
    )
    trainer(folder, logger(folder)).sample(model(), data, num=3, steps=3)
    others = [CSVLogger(folder, name="numbers"), board(folder, name="scores")]
    trainer(folder, [logger(folder), *others]).attribute(
        model(), data, groups=["dark", "bright"], scoring=SCORING
    )
    drawing = ELBOAttributionCallback(scoring=SCORING, max_queries=4, group_key="label")
    validating, module = trainer(folder, logger(folder, name="validate"), callbacks=[drawing]), model()
    validating.layout.load(folder / "toy" / "full", module)
    validating.validate(module, data.val_dataloader(), verbose=False)
    wandb.finish()
    for _ in range(2):  # what is complete is not logged again
        trainer(folder, [logger(folder), CSVLogger(folder, name="csv")]).sample(
            model(), data, num=2, steps=3, without="dark,bright"
        )
    return folder


@pytest.fixture(scope="module")
def written(folder: Path) -> dict[str, WandbFiles]:
    return runs(folder)


def test_there_is_one_run_for_every_stage_and_group(written: dict[str, WandbFiles]) -> None:
    assert {run.about for run in written.values()} == {
        ("toy", "fit", "fit full"),
        ("toy", "unlearn", "unlearn dark"),
        ("toy", "unlearn", "unlearn bright"),
        ("toy", "attribute", "attribute retrack-0"),
        ("toy", "sample", "sample retrack-0"),
        (None, None, "validate"),
    }
    assert {run.whole["state"] for run in written.values()} == {"finished"}
    assert {run.whole["project"] for run in written.values()} == {"guda"}


def test_the_configuration_holds_the_hashes(folder: Path, written: dict[str, WandbFiles]) -> None:
    full = read_json(folder / "toy" / "full" / "record.json")
    assert written["fit full"].config["full_hash"] == full["full_hash"]
    assert written["fit full"].config["grouping_hash"] == full["grouping_hash"]
    records = {record.groups: record for record in CounterfactualStore(folder / "toy" / "store").records()}
    for group in ("dark", "bright"):
        config, record = written[f"unlearn {group}"].config, records[(group,)]
        assert config["groups"] == [group]
        assert config["hparams"] == record.hparams
        for name in ("full_hash", "grouping_hash", "schedule_hash"):
            assert config[name] == getattr(record, name)
    record = ScoreTable.load_record(folder / "toy" / "scores" / "retrack-0.parquet").to_json()
    config = written["attribute retrack-0"].config
    for name in ("full_hash", "query_hash", "counterfactuals"):
        assert config[name] == record[name]
    assert config["attribution/standing"]["level"] == "untested"
    assert config["attribution/standing"]["headline"].startswith("Untested: nobody has measured here")
    told = ("method", "weighting", "draws", "counterfactual_seeds", "queries")
    assert [config[name] for name in told] == ["retrack", "elbo", 4, [0], 3]
    assert config["store_hash"] == sha256_json(sorted(record["counterfactuals"].values()))
    assert config["estimand"]["Process"] == (
        "unlearned from the full model (retrack), a stand-in for training without the group; seed 0, one "
        "full model"
    )


def test_the_scalars_of_unlearning_are_there(folder: Path, written: dict[str, WandbFiles]) -> None:
    run = written["unlearn dark"]
    assert [step for step, _ in run.history("unlearn/loss")] == [0, 1]
    (record,) = CounterfactualStore(folder / "toy" / "store").select("retrack", 0, groups=["dark"]).values()
    history = CounterfactualStore(folder / "toy" / "store").record(record).history
    assert [row["step"] for row in history] == [1, 2]
    for name in ("own", "other"):
        logged = run.history(f"influence/{name}")
        # Lightning counts from zero.
        assert [step for step, _ in logged] == [0, 1]
        assert [value for _, value in logged] == pytest.approx([row[name] for row in history], rel=1e-5)
    for name in ("influence/dark", "unlearn/drift", "unlearn/forget_loss", "unlearn/retain_loss"):
        assert len(run.history(name)) == 2


def test_pictures_stand_beside_the_scalars_of_their_step(written: dict[str, WandbFiles]) -> None:
    run = written["unlearn bright"]
    for name in ("influence/heatmap.height", "influence/curves.height", "influence/scores.nrows"):
        assert [step for step, _ in run.history(name)] == [0, 1]


def test_the_table_shows_every_query_with_its_thumbnail_and_scores(
    folder: Path, written: dict[str, WandbFiles]
) -> None:
    columns, rows, thumbnails = written["attribute retrack-0"].table("attribution/scores")
    table = ScoreTable.load(folder / "toy" / "scores" / "retrack-0.parquet").select(weighting="elbo")
    queries = load_queries(folder / "toy" / "queries", (1, 8, 8))
    assert columns == TITLES
    assert tuple(row[0] for row in rows) == queries.ids
    assert {row[2] for row in rows} == {None}  # drawn by a model that knows no labels
    # Unlearning does not make sizes: shares of each query's total.
    assert {tuple(row[10:]) for row in rows} == {("retrack", "elbo", "share of the query's total, %")}
    found = torch.tensor([row[6:10] for row in rows], dtype=torch.float64)
    scores, stderr = table.matrix(), table.stderr_matrix()
    total = scores.abs().sum(dim=1, keepdim=True) / 100
    torch.testing.assert_close(found[:, ::2], scores / total)
    torch.testing.assert_close(found[:, 1::2], stderr / total)
    assert [row[3] for row in rows] == [("dark", "bright")[int(row.argmax())] for row in scores]
    margins = (scores[:, 0] - scores[:, 1]).abs() / stderr.square().sum(dim=1).sqrt()
    assert [row[4] for row in rows] == pytest.approx(margins.tolist())
    assert [row[5] for row in rows] == (margins < 2).tolist()
    for thumbnail, image in zip(thumbnails, queries.images, strict=True):
        assert np.array_equal(thumbnail, from_unit(image)[0].numpy())

    columns, rows, _ = written["attribute retrack-0"].table("attribution/groups")
    assert columns == list(OF_GROUPS)
    assert [row[0] for row in rows] == ["dark", "bright"]
    assert [row[1] for row in rows] == pytest.approx((scores / total).mean(dim=0).tolist())
    assert [row[3] for row in rows] == scores.argmax(dim=1).bincount(minlength=2).tolist()
    assert [tuple(row[4:6]) for row in rows] == [(v.grade, v.reason) for v in table.verdicts.values()]

    columns, rows, thumbnails = written["unlearn dark"].table("influence/scores")
    assert columns == [*TITLES[:8], *TITLES[10:]]
    assert len(rows) == len(thumbnails) == 6  # two probe samples of each of three groups
    assert Counter(row[2] for row in rows) == {"dark": 2, "bright": 2, "noisy": 2}
    assert {(row[4], row[5]) for row in rows} == {(None, False)}  # one group has no second


def test_a_validation_says_what_it_drew_and_from_which_store(
    folder: Path, written: dict[str, WandbFiles]
) -> None:
    made = written["validate"].config["influence"]
    told = ("method", "queries", "validation_samples", "query_seed", "store")
    assert [made[name] for name in told] == ["retrack", 4, 6, 0, str(folder / "toy" / "store")]
    assert made["store_hash"] == written["attribute retrack-0"].config["store_hash"]
    assert made["standing"] == {
        "level": "untested",
        "headline": written["attribute retrack-0"].config["attribution/standing"]["headline"],
        "size": "No size claimed, order only: share of the query's total, %. The size of retrack's scores "
        "is not known: it grows with the strength of unlearning, and guda evaluate --calibrate measures it "
        "where some groups were retrained. The total is the sum over the groups of this table, without "
        "signs.",
    }
    _, groups, _ = written["validate"].table("influence/groups")
    verdicts = ScoreTable.load_verdicts(folder / "toy" / "scores" / "retrack-0.parquet")
    assert {row[0]: tuple(row[4:6]) for row in groups} == {
        group: (verdict.grade, verdict.reason) for group, verdict in verdicts.items()
    }
    columns, rows, _ = written["validate"].table("influence/scores")
    assert (set(columns), len(rows)) == (set(TITLES), 4)  # groups in the order of the store
    assert [row[2] for row in rows] == [str(int(row[0]) // 16) for row in rows]  # numbers of the labels


def test_artifacts_know_what_they_were_made_from(folder: Path, written: dict[str, WandbFiles]) -> None:
    full = written["fit full"].artifact("toy-full")
    record = read_json(folder / "toy" / "full" / "record.json")
    assert (full["type"], full["metadata"]["full_hash"]) == ("model", record["full_hash"])
    weights = full["contents"]["unet/diffusion_pytorch_model.safetensors"]  # log_model: a copy to upload
    assert Path(weights["local_path"]).stat().st_size == int(weights["size"])
    (made,) = CounterfactualStore(folder / "toy" / "store").select("retrack", 0, groups=["dark"]).values()
    forgot = written["unlearn dark"].artifact(f"toy-{made.folder_name}")
    assert (forgot["type"], forgot["metadata"]["groups"]) == ("counterfactual", ["dark"])
    assert forgot["metadata"]["made_from"] == ["model toy-full"]
    place = (folder / "toy" / "store" / made.folder_name / "model.safetensors").as_uri()
    assert forgot["contents"]["model.safetensors"]["ref"] == place  # no log_model: nothing to upload
    scores = written["attribute retrack-0"].artifact("toy-scores-retrack-0")
    assert scores["type"] == "scores"
    assert len(scores["metadata"]["made_from"]) == 3
    assert set(scores["metadata"]["made_from"]) >= {
        "model toy-full",
        f"counterfactual toy-{made.folder_name}",
    }
    copy = Path(scores["contents"]["retrack-0.parquet"]["local_path"])
    assert ScoreTable.load(copy).table.equals(
        ScoreTable.load(folder / "toy" / "scores" / "retrack-0.parquet").table
    )


def test_online_inputs_are_the_artifacts_themselves(folder: Path, tmp_path: Path) -> None:
    """What W&B refuses offline: a run that says it is online, and keeps what it is given."""

    class Online:
        offline = disabled = False

        def __init__(self) -> None:
            self.used: list[Any] = []
            self.logged: list[Any] = []

        def use_artifact(self, artifact: Any) -> None:
            self.used.append(artifact)

        def log_artifact(self, artifact: Any) -> None:
            self.logged.append(artifact)

    run, mine = Online(), logger(tmp_path)
    mine._experiment = run  # type: ignore[assignment]
    toy = RunFolder(folder / "toy")
    log_scores([mine], toy, toy.table("retrack", 0))
    assert [artifact.type for artifact in run.logged] == ["scores"]
    assert [artifact.type for artifact in run.used] == ["model", "counterfactual", "counterfactual"]
    assert run.used[0].name == "toy-full"
    assert all(entry.ref for artifact in run.used for entry in artifact.manifest.entries.values())


def test_tensorboard_has_the_pictures(folder: Path) -> None:
    def pictures(name: str, version: str) -> dict[str, list[Any]]:
        events = EventAccumulator(str(folder / name / version), {"images": 0}).Reload()
        return {tag: events.Images(tag) for tag in events.Tags()["images"]}

    for version in ("version_0", "version_1"):  # one for each group
        found = pictures("board", version)
        assert set(found) == {"influence/scores", "influence/heatmap", "influence/curves"}
        assert all([event.step for event in events] == [0, 1] for events in found.values())
    found = pictures("scores", "version_0")
    assert set(found) == {"attribution/scores", "attribution/heatmap"}
    heat, thumbnails = (
        np.asarray(Image.open(io.BytesIO(found[f"attribution/{name}"][0].encoded_image_string)))
        for name in ("heatmap", "scores")
    )
    ink = (heat < 250).any(axis=2)
    assert min(heat.shape[:2]) > 200 and 0.02 < ink.mean() < 0.9
    first = from_unit(load_queries(folder / "toy" / "queries", (1, 8, 8)).images[0])[0].numpy()
    shown = first.repeat(CELL // 8, 0).repeat(CELL // 8, 1)
    assert np.array_equal(thumbnails[GAP : GAP + CELL, GAP : GAP + CELL], np.stack([shown] * 3, axis=2))


def test_csv_has_all_numbers(folder: Path, written: dict[str, WandbFiles]) -> None:
    for name in ("scores", "groups"):
        columns, rows, _ = written["attribute retrack-0"].table(f"attribution/{name}")
        read = pd.read_csv(folder / "numbers" / "version_0" / f"attribution_{name}.csv")
        kept = [number for number, column in enumerate(columns) if column != "image"]
        assert read.columns.tolist() == [columns[number] for number in kept]
        for number, column in zip(kept, read.columns, strict=True):
            values = [row[number] for row in rows]
            numbers = all(isinstance(value, float) for value in values)
            found = read[column].astype(object).where(read[column].notna(), None).tolist()
            assert found == (pytest.approx(values) if numbers else values)
    for version in ("version_0", "version_1"):
        read = pd.read_csv(folder / "lightning_logs" / version / "influence_scores.csv")
        assert read.columns[0] == "step"
        assert read["step"].tolist() == [0] * 6 + [1] * 6  # below each other


def test_pictures_without_groups_stand_beside_the_queries(
    folder: Path, written: dict[str, WandbFiles]
) -> None:
    run = written["sample retrack-0"]
    assert [made["without"] for made in run.config["drawings"]] == ["dark", "bright"]
    assert run.whole["summary"]["without/pictures"]["captions"] == [
        "retrack, counterfactuals of seed 0; the pictures of a row come from the same noise, seed 0, 3 steps"
    ]
    picture, step = run.picture("without/pictures"), CELL + GAP
    assert picture.shape == (GAP + CAPTION + 2 * (step + CAPTION), GAP + 3 * step, 3)
    columns = ["queries", "without/retrack/dark", "without/retrack/bright"]
    for column, name in enumerate(columns):
        drawn = load_queries(folder / "toy" / name, (1, 8, 8))
        left, above = GAP + column * step, picture[: GAP + CAPTION]
        assert (above[:, left : left + CELL] < 100).any()  # the title
        for row in range(2):
            top = GAP + CAPTION + row * (step + CAPTION)
            cell = picture[top : top + CELL, left : left + CELL]
            pixels = from_unit(drawn.images[row])[0].numpy().repeat(CELL // 8, 0).repeat(CELL // 8, 1)
            assert np.array_equal(cell, np.stack([pixels] * 3, axis=2))
            below = picture[top + CELL : top + step + CAPTION, left : left + CELL]
            assert (below < 200).any() == (column == 0)  # the name of the query, once


@pytest.mark.parametrize(
    ("run", "name"),
    [
        ("attribute retrack-0", "attribution/heatmap"),
        ("unlearn dark", "influence/heatmap"),
        ("unlearn dark", "influence/curves"),
        ("validate", "influence/curves"),  # of the store's records
    ],
)
def test_heat_map_and_curves_are_no_blank_pictures(
    written: dict[str, WandbFiles], run: str, name: str
) -> None:
    picture = written[run].picture(name)
    assert min(picture.shape[:2]) > 200
    ink = (picture < 250).any(axis=2)
    assert 0.02 < ink.mean() < 0.9
    saturation = picture.max(axis=2).astype(int) - picture.min(axis=2)
    assert (saturation > 60).sum() > 20  # coloured cells or lines, not text alone


def test_large_pictures_and_long_names_fit_into_their_cells() -> None:
    images = torch.linspace(-1, 1, 400)[:, None].expand(2, 3, 400, 200)
    name = "a very long name " * 20
    picture = np.asarray(
        side_by_side({name: Queries((name, "q"), images), "b": Queries(("p", "q"), -images)})
    )
    step = CELL + GAP
    assert picture.shape == (GAP + CAPTION + 2 * (step + CAPTION), GAP + 2 * step, 3)
    assert (picture[: GAP + CAPTION, step : GAP + step] == 255).all()  # the gap between two titles
    first = picture[GAP + CAPTION : GAP + CAPTION + CELL, GAP:step]
    assert (first[:, CELL // 2 :] == 255).all()  # twice as high as wide
    assert first[0, 0, 0] < 10 and first[-1, 0, 0] > 245


def test_other_loggers_get_the_scalars_too(folder: Path) -> None:
    files = sorted((folder / "lightning_logs").glob("*/metrics.csv"))
    assert len(files) == 2  # one version for each group
    assert all("influence/own" in file.read_text().splitlines()[0] for file in files)


def test_what_the_user_named_stays(tmp_path: Path) -> None:
    mine = logger(tmp_path, name="mine", group="ours", job_type="night", tags=["a"])
    trainer(tmp_path, mine, max_steps=1).fit_full(model(), shades())
    assert mine._experiment is None  # the user's own object was never begun
    (run,) = runs(tmp_path).values()
    assert run.about == ("ours", "night", "mine")
    assert run.whole["tags"] == ["a"]


def test_an_open_run_of_the_user_stays_open(tmp_path: Path) -> None:
    mine = wandb.init(project="mine", name="mine", dir=tmp_path, mode="offline")
    try:
        with pytest.warns(UserWarning, match="There is a wandb run already in progress"):
            trainer(tmp_path, logger(tmp_path), max_steps=1).fit_full(model(), shades())
        assert wandb.run is mine
        mine.log({"after": 1.0})
    finally:
        wandb.finish()
    (run,) = runs(tmp_path).values()
    assert run.about == (None, None, "mine")
    assert {"train/loss", "after"} <= set(run.whole["summary"])


def test_a_plain_trainer_keeps_its_logger(tmp_path: Path) -> None:
    mine = logger(tmp_path, name="mine", config={"a": 1})
    data = shades()
    student = UnlearnModule(FullModel.of(model()), ReTrack(), ["dark"])
    plain = quiet_trainer(
        tmp_path, max_steps=1, logger=mine, callbacks=[ELBOAttributionCallback(scoring=SCORING)]
    )
    plain.fit(student, datamodule=data.unlearning(["dark"]))
    plain.validate(student, datamodule=data.unlearning(["dark"]), verbose=False)
    assert plain.loggers == [mine]
    wandb.finish()
    (run,) = runs(tmp_path).values()
    assert run.config["a"] == 1
    made = run.config["influence"]
    assert made["full_hash"] == student.full_hash
    told = ("method", "weighting", "draws", "seed", "counterfactual_seeds", "queries", "validation_samples")
    assert [made[name] for name in told] == ["retrack", "elbo", 4, 0, [0], 6, 6]
    assert run.about == (None, None, "mine")
    columns, rows, _ = run.table("influence/scores")
    assert (len(columns), len(rows)) == (11, 6)
    assert [step for step, _ in run.history("influence/heatmap.height")] == [
        step for step, _ in run.history("influence/own")
    ]


def test_pictures_need_the_report_extra_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from guda_lightning.errors import MissingExtraError
    from guda_lightning.report import charts

    monkeypatch.setattr(charts, "find_spec", lambda module: None)
    student = UnlearnModule(FullModel.of(model()), ReTrack(), ["dark"])
    plain = quiet_trainer(
        tmp_path, max_steps=1, logger=logger(tmp_path), callbacks=[ELBOAttributionCallback()]
    )
    with pytest.raises(MissingExtraError, match=r'pip install "guda-lightning\[report\]"'):
        plain.fit(student, datamodule=shades().unlearning(["dark"]))
    assert plain.global_step == 0
    wandb.finish()  # Lightning begins the run before any callback is asked


def test_a_placebo_is_a_run_with_every_p_value(tmp_path: Path) -> None:
    data, quiet = shades(), trainer(tmp_path, [])
    trainer(tmp_path, [], max_steps=2).fit_full(model(), data)
    quiet.sample(model(), data, num=3, steps=3)
    quiet.attribute(model(), data, attributor=PixelSimilarity(), name="mine")
    for _ in range(2):  # what is complete is not logged again
        trainer(tmp_path, logger(tmp_path)).placebo(
            model(), data, attributor=PixelSimilarity(), level=0.1, name="mine"
        )
    (written,) = runs(tmp_path).values()
    assert written.about == ("toy", "placebo", "placebo similarity-0-mine")
    assert (written.config["partitions"], written.config["level"]) == (99, 0.1)
    frame = pd.read_parquet(tmp_path / "toy" / "placebo" / "queries" / "similarity-0-mine.parquet")
    logged = read_json(written.folder / "files" / written.whole["summary"]["placebo/queries"]["path"])
    assert logged["columns"] == frame.columns.tolist()
    assert logged["data"] == frame.to_numpy().tolist()
    for weighting, rows in frame.groupby("weighting"):
        share = written.whole["summary"][f"placebo/attributable/{weighting}"]
        assert share == rows["attributable"].mean()


def test_an_evaluation_is_a_run_with_its_metrics_and_charts(tmp_path: Path) -> None:
    run, truth = tmp_path / "toy", torch.randn(20, 3)
    for name, scores in {"retrain-0": truth, "retrain-1": truth + 0.1, "retrack-0": truth * 2}.items():
        method, seed = name.split("-")
        tables = [
            ScoreTable.from_matrix(
                scores + torch.randn(20, 3),
                torch.zeros(20, 3),
                query_ids=[f"q{i}" for i in range(20)],
                groups=["dark", "bright", "noisy"],
                n_draws=1,
                method=method,
                weighting=weighting,
                seed=int(seed),
                record=ScoreRecord(Custom(), query_hash="the queries"),
            )
            for weighting in ("elbo", "uniform")
        ]
        ScoreTable.concat(tables).save(run / "scores" / f"{name}.parquet")
    assert main(["evaluate", str(run), "--resamples", "50", "--wandb", "mine"]) == 0
    (written,) = runs(run).values()
    assert written.about == ("toy", "evaluate", "evaluate")
    assert written.whole["project"] == "mine"
    assert (written.config["query_hash"], written.config["oracle_seeds"]) == ("the queries", [0, 1])
    metrics = Evaluation.load(run / "evaluation").metrics
    logged = read_json(written.folder / "files" / written.whole["summary"]["agreement/metrics"]["path"])
    assert logged["columns"] == metrics.columns.tolist()
    assert logged["data"] == metrics.to_numpy().tolist()
    for weighting in ("elbo", "uniform"):
        picture = written.picture(f"agreement/{weighting}")
        saturation = picture.max(axis=2).astype(int) - picture.min(axis=2)
        assert (saturation > 60).sum() > 20  # coloured dots and intervals


def test_every_key_is_in_the_catalogue(folder: Path, written: dict[str, WandbFiles]) -> None:
    """And the catalogue is the table in docs/loggers.md, so that names stay what users were told."""
    groups, weightings = r"(dark|bright|noisy)", r"(elbo|uniform|middle)"
    named = {"GROUP": groups, "WEIGHTING": weightings, "PART": r"\w+"}
    patterns = [
        re.compile(re.sub(r"[A-Z]{2,}", lambda found: named[found[0]], key.key))
        for logged in LOGGED
        for key in logged.keys
    ]
    lightning = {"epoch", "trainer/global_step"}
    keys = {key for run in written.values() for key in run.whole["summary"] if not key.startswith("_")}
    keys -= lightning
    assert {"train/loss", "attribution/groups", "without/pictures"} <= keys
    assert not [key for key in keys if not any(pattern.fullmatch(key) for pattern in patterns)]
    docs = (Path(__file__).parents[2] / "docs" / "loggers.md").read_text("utf-8")
    rows = [
        f"| `{key.key}` | {key.kind} | {key.what} | {logged.by} |" for logged in LOGGED for key in logged.keys
    ]
    assert re.findall(r"^\| `\S+` \| (?:number|table|picture) \|.*$", docs, re.MULTILINE) == rows
    sources = [file.read_text("utf-8") for file in Path(charts.__file__).parent.glob("*_section.py")]
    names = {name for text in sources for name in re.findall(r'^ +name="(\w+)",$', text, re.MULTILINE)}
    answers = {key.key for logged in LOGGED for key in logged.keys if key.key.endswith("/answer")}
    assert answers == {f"{name}/answer" for name in (*names, RECALIBRATED)}
