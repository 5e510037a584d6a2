"""From images to the page through the command line, on tiny models, in every way that a user may try."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from diffusers import DDPMPipeline
from PIL import Image
from sklearn.datasets import load_digits

from guda_lightning import CounterfactualStore, ScoreTable
from guda_lightning.cli.main import main

CONF = Path(__file__).parent / "conf"
DIGITS = ["-c", str(CONF / "digits.yaml")]
GROUPS = [str(digit) for digit in range(10)]

Guda = Callable[..., str]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # a second one would only wait: the networks are tiny


def stage_options(stage: str) -> list[str]:
    own = CONF / f"{stage}.yaml"
    return [*DIGITS, *(["-c", str(own)] if own.is_file() else [])]


@pytest.fixture
def guda(capsys: pytest.CaptureFixture[str]) -> Guda:
    """Run a stage of tests/conf and return what it printed."""

    def run(stage: str, *arguments: object, options: list[str] | None = None) -> str:
        capsys.readouterr()
        shared = stage_options(stage) if options is None else options
        code = main([stage, *shared, *map(str, arguments)])
        out, err = capsys.readouterr()
        assert code == 0, err
        return out

    return run


def times(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run_has_the_files_of_the_design(finished_run: Path) -> None:
    found = files(finished_run)
    store = {name for name in found if name.startswith("store/")}
    errors = {name for name in found if name.startswith("scores/errors/")}
    samples = {f"sample-{index}.png" for index in range(5)} | {"metadata.jsonl", "record.json", "seal.json"}
    history = sorted(name for name in found if name.startswith("history/"))
    assert [name.split("-")[1] for name in history] == ["fit", "sample", "unlearn", "attribute"]
    assert found - store - errors - {*history} == {
        "full/model_index.json",
        "full/record.json",
        "full/seal.json",
        "full/scheduler/scheduler_config.json",
        "full/unet/config.json",
        "full/unet/diffusion_pytorch_model.safetensors",
        *(f"queries/{name}" for name in samples),
        *(f"scores/queries/retrack-0/{name}" for name in samples),
        "scores/costs/retrack-0.json",
        "scores/nearest/retrack-0.safetensors",
        "scores/retrack-0.parquet",
        "examples.safetensors",
        "report/index.html",
    }
    assert len(errors) == 11  # the full model and ten counterfactuals
    records = CounterfactualStore(finished_run / "store").records()
    assert [record.groups for record in records] == [(group,) for group in GROUPS]
    assert len(store) == 2 * len(records)
    assert all(record.history for record in records)  # how the influence evolved
    table = ScoreTable.load(finished_run / "scores" / "retrack-0.parquet")
    assert table.groups == tuple(GROUPS)
    assert table.queries == tuple(f"sample-{index}" for index in range(5))
    assert table.to_pandas().columns.tolist() == [
        "query",
        "group",
        "score",
        "stderr",
        "n_draws",
        "method",
        "weighting",
        "seed",
    ]
    assert set(table.to_pandas()["n_draws"]) == {10}  # 5 strata x 2 draws


def test_the_full_model_is_a_diffusers_pipeline(finished_run: Path) -> None:
    pipeline = DDPMPipeline.from_pretrained(finished_run / "full", low_cpu_mem_usage=False)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(batch_size=2, num_inference_steps=3, output_type="np").images
    assert images.shape == (2, 8, 8, 1)


def test_every_stage_skips_what_is_complete_and_touches_nothing(finished_run: Path, guda: Guda) -> None:
    run = ["--run", finished_run]
    before = times(finished_run)
    assert guda("fit", *run) == f"fit: {finished_run}/full is complete, skipped\n"
    assert guda("unlearn", *run) == f"unlearn: 10 complete, skipped: {', '.join(GROUPS)}\n"
    assert guda("sample", *run) == f"sample: {finished_run}/queries is complete, skipped\n"
    again = guda("attribute", *run)
    assert again.startswith("retrack, weighting elbo, seed 0: 5 queries, 10 groups, ")  # the answer once more
    assert again.endswith(f"\nattribute: {finished_run}/scores/retrack-0.parquet is complete, skipped\n")
    after = times(finished_run)
    assert after.pop(".fit.json")  # which skips the next `fit` sooner
    assert after == before


def test_stages_one_by_one_say_their_cost_first_and_give_the_scores_of_one_run(
    finished_run: Path, tmp_path: Path, guda: Guda
) -> None:
    root = tmp_path / "run"
    run = ["--run", root]
    out = guda("fit", *run)
    assert out.startswith("fit: 12 steps of 16 images: about ")
    assert out.splitlines()[-1].startswith(f"fit: {root}/full written, ")
    out = guda("unlearn", *run, "--groups", "7, 3")
    assert out.startswith("unlearn: 2 groups x 4 steps (retrack): about ")
    assert [line.split(",")[0] for line in out.splitlines()[1:]] == [
        "unlearn: 7 done (1 of 2)",
        "unlearn: 3 done (2 of 2)",
    ]
    out = guda("sample", *run, "--batch_size", 5)
    assert out.startswith("sample: 5 images x 10 steps: about ")
    out = guda("attribute", *run, "--groups", '["3", "7"]', "--scoring.batch_size", 7)
    assert out.startswith("attribute: 5 queries, 2 groups, 150 network evaluations: about ")
    # Some more: only what is missing is made and evaluated.
    more = ["--groups", "0,3,7"]
    out = guda("unlearn", *run, *more)
    assert out.startswith("unlearn: 2 complete, skipped: 3, 7\nunlearn: 1 groups x 4 steps (retrack): about ")
    out = guda("attribute", *run, *more, "--scoring.batch_size", 7)
    assert out.startswith("attribute: 5 queries, 3 groups, 50 network evaluations: about ")
    assert files(root / "checkpoints") == set()

    once = ScoreTable.load(finished_run / "scores" / "retrack-0.parquet")
    portions = ScoreTable.load(root / "scores" / "retrack-0.parquet")
    made = once.record.details.counterfactuals
    assert portions.record.details.counterfactuals == {name: made[name] for name in "037"}  # bit for bit
    assert portions.record.query_hash == once.record.query_hash
    for weighting in ("elbo", "uniform"):
        scores = [table.select(weighting=weighting).matrix() for table in (once, portions)]
        torch.testing.assert_close(scores[0][:, [0, 3, 7]], scores[1], rtol=1e-5, atol=1e-5)


def test_own_images_are_scored_beside_the_samples(finished_run: Path, tmp_path: Path, guda: Guda) -> None:
    samples = finished_run / "scores" / "retrack-0.parquet"
    before = samples.read_bytes()
    digits = load_digits().images * (255 / 16)
    folder = tmp_path / "My Photos"
    (folder / "more").mkdir(parents=True)
    for name, digit in (("b.png", 0), ("a.png", 1), ("more/c.png", 2)):
        Image.fromarray(np.rint(digits[digit]).astype(np.uint8)).save(folder / name)
    single = tmp_path / "one.png"
    Image.fromarray(np.rint(digits[1]).astype(np.uint8)).resize((20, 20)).save(single)
    run = ["--run", finished_run]

    out = guda("attribute", *run, "--queries", folder)
    assert out.endswith(f"attribute: {finished_run}/scores/retrack-0-my-photos.parquet written\n")
    table = ScoreTable.load(finished_run / "scores" / "retrack-0-my-photos.parquet")
    assert table.queries == ("a", "b", "more/c")
    guda("attribute", *run, "--queries", single, "--resize", "true")
    assert ScoreTable.load(finished_run / "scores" / "retrack-0-one.parquet").queries == ("one",)
    assert samples.read_bytes() == before

    # Seen again, both are complete; the page shows the newest table, or the one that is named.
    again = guda("attribute", *run, "--queries", folder)
    assert again.endswith(
        f"attribute: {finished_run}/scores/retrack-0-my-photos.parquet is complete, skipped\n"
    )
    guda("report", finished_run, options=[])
    page = (finished_run / "report" / "index.html").read_text()
    assert "more/c" not in page and "one" in page
    guda("report", finished_run, "--scores", finished_run / "scores/retrack-0-my-photos.parquet", options=[])
    assert "more/c" in (finished_run / "report" / "index.html").read_text()


def test_run_scores_own_images_instead_of_samples(finished_run: Path, tmp_path: Path, guda: Guda) -> None:
    query = tmp_path / "me.png"
    Image.fromarray(np.rint(load_digits().images[3] * (255 / 16)).astype(np.uint8)).save(query)
    two = {name: tmp_path / f"{name}.yaml" for name in ("zero_target", "attribute_zero_target")}
    for path in two.values():
        path.write_text((CONF / path.name).read_text() + "groups: 3,7\n")
    run = tmp_path / "run"
    shutil.copytree(finished_run / "full", run / "full")
    out = guda(
        "run",
        "--run",
        run,
        "--queries",
        query,
        *("--unlearn", two["zero_target"], "--attribute", two["attribute_zero_target"]),
        options=DIGITS,
    )
    assert out.splitlines()[-1] == f"report: open {run}/report/index.html"
    assert [path.name for path in (run / "scores").glob("*.parquet")] == ["zero_target-0-me.parquet"]
    assert not (run / "queries").exists()


def test_two_objectives_live_side_by_side(finished_run: Path, guda: Guda) -> None:
    before = times(finished_run / "store")
    options = [*DIGITS, "-c", str(CONF / "zero_target.yaml")]
    guda("unlearn", "--run", finished_run, "--groups", "2", options=options)
    after = times(finished_run / "store")
    assert {name: after[name] for name in before if name != "."} == before
    out = guda("attribute", "--run", finished_run, "--operator", "zero_target", "--groups", "2")
    # The full model's errors are shared by all methods: only the counterfactual is evaluated.
    assert out.startswith("attribute: 5 queries, 1 groups, 50 network evaluations: about ")
    tables = sorted(path.name for path in (finished_run / "scores").glob("*.parquet"))
    assert tables == ["retrack-0.parquet", "zero_target-0.parquet"]
    assert ScoreTable.load(finished_run / "scores/zero_target-0.parquet").groups == ("2",)


def test_the_same_objective_with_other_hyperparameters_has_to_be_chosen(
    finished_run: Path, guda: Guda, capsys: pytest.CaptureFixture[str]
) -> None:
    guda("unlearn", "--run", finished_run, "--groups", "1", "--steps", 2)
    assert main(["attribute", *stage_options("attribute"), "--run", str(finished_run)]) == 2
    err = capsys.readouterr().err
    assert "were made with several sets of hyper-parameters" in err and "steps=2" in err and "steps=4" in err
    kinds = {r.steps: r.hparams_hash for r in CounterfactualStore(finished_run / "store").records()}
    scores, two = finished_run / "scores", f"retrack-0-{kinds[2][:8]}.parquet"
    before = (scores / "retrack-0.parquet").read_bytes()
    for _ in range(2):  # the second time, it is there
        guda("attribute", "--run", finished_run, "--groups", "1", "--hparams", kinds[2][:8])
        assert ScoreTable.load(scores / two).groups == ("1",)
        assert sorted(path.name for path in scores.glob("*.parquet")) == [two, "retrack-0.parquet"]
    guda("attribute", "--run", finished_run, "--hparams", kinds[4][:8])
    assert (scores / "retrack-0.parquet").read_bytes() == before  # the scores of the others are complete


@pytest.mark.parametrize("kind", ["pipeline", "network", "checkpoint"])
def test_a_full_model_of_somebody_else(kind: str, finished_run: Path, tmp_path: Path, guda: Guda) -> None:
    theirs, run = tmp_path / "theirs", tmp_path / "run"
    if kind == "pipeline":
        full = Path(shutil.copytree(finished_run / "full", theirs))
        for name in ("record.json", "seal.json"):
            (theirs / name).unlink()
    elif kind == "network":
        full = Path(shutil.copytree(finished_run / "full" / "unet", theirs))
    else:
        # An ordinary Lightning training with an ordinary checkpoint.
        fragment = tmp_path / "keep.yaml"
        callback = {
            "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
            "init_args": {"dirpath": str(theirs), "filename": "last"},
        }
        fragment.write_text(yaml.safe_dump({"trainer": {"callbacks+": [callback]}}))
        guda("fit", "-c", fragment, "--run", tmp_path / "training")
        full = theirs / "last.ckpt"
    shared = ["--run", run, "--full", full]
    guda("unlearn", *shared, "--groups", "3")
    guda("sample", *shared)
    guda("attribute", *shared, "--groups", "3")
    if kind == "network":  # of which there is the least
        guda("report", run, options=[])
    # The same weights give the same counterfactual and the same scores as the run that they came from.
    table = ScoreTable.load(run / "scores" / "retrack-0.parquet")
    theirs_table = ScoreTable.load(finished_run / "scores" / "retrack-0.parquet")
    assert table.record.full_hash == theirs_table.record.full_hash
    assert table.record.query_hash == theirs_table.record.query_hash
    assert table.record.details.counterfactuals["3"] == theirs_table.record.details.counterfactuals["3"]
    columns = theirs_table.select(weighting="elbo").matrix()[:, 3:4]
    torch.testing.assert_close(table.select(weighting="elbo").matrix(), columns, rtol=1e-9, atol=1e-9)


def save_digits(folder: Path, colours: int) -> list[tuple[str, int]]:
    """48 digits in one folder per class; names and classes."""
    digits, rows = load_digits(), []
    for index in range(48):
        label = int(digits.target[index]) % 3
        name = f"{'abc'[label]}/{index:03d}.png"
        pixels = np.rint(digits.images[index] * (255 / 16)).astype(np.uint8)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels if colours == 1 else np.stack([pixels] * 3, axis=-1)).save(folder / name)
        rows.append((name, label))
    return rows


def source(tmp_path: Path, kind: str) -> tuple[dict[str, object], tuple[str, ...], list[str]]:
    """The data section of a kind of source, the groups that it must give, and further flags."""
    images = tmp_path / "images"
    if kind == "folder":
        save_digits(images, 1)
        return {"class_path": "guda_lightning.data.ImageFolder", "path": str(images)}, ("a", "b", "c"), []
    if kind == "metadata":
        rows = save_digits(images, 1)
        with (tmp_path / "groups.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["id", "group"])
            table.writerows(
                [name, f"{'abc'[label]};even" if not i % 2 else "odd"] for i, (name, label) in enumerate(rows)
            )
        flags = ["--data.init_args.groups", str(tmp_path / "groups.csv")]
        return (
            {"class_path": "guda_lightning.data.ImageFolder", "path": str(images)},
            ("a", "b", "c", "even", "odd"),
            flags,
        )
    rows = save_digits(images, 3)  # as the public CIFAR-10: encoded images `img`, whole numbers `label`
    encoded = [{"bytes": (images / name).read_bytes(), "path": name} for name, _ in rows]
    table = pa.table({"img": encoded, "label": pa.array([label for _, label in rows], pa.int64())})
    pq.write_table(table, tmp_path / "train.parquet")
    channels = ["--model.init_args.denoiser.init_args.in_channels", "3"]
    channels += ["--model.init_args.denoiser.init_args.out_channels", "3"]
    return (
        {"class_path": "guda_lightning.data.Parquet", "path": str(tmp_path / "train.parquet")},
        ("0", "1", "2"),
        channels,
    )


@pytest.mark.parametrize("kind", ["folder", pytest.param("metadata", marks=pytest.mark.torture), "parquet"])
def test_own_data(kind: str, tmp_path: Path, guda: Guda) -> None:
    origin, groups, flags = source(tmp_path, kind)
    section = {"class_path": origin.pop("class_path"), "init_args": origin}
    own, data = tmp_path / "own.yaml", {"init_args": {"source": section, "limit": None}}
    own.write_text(yaml.safe_dump({"data": data, "trainer": {"max_steps": 3, "limit_val_batches": 0}}))
    shared = ["-c", own, "--run", tmp_path / "run", *flags]
    own_stages = {"sample": "sample", "unlearn": "zero_target", "attribute": "attribute_zero_target"}
    fragments = [part for stage, name in own_stages.items() for part in (f"--{stage}", CONF / f"{name}.yaml")]
    guda("run", *shared, *fragments, options=DIGITS)
    table = ScoreTable.load(tmp_path / "run" / "scores" / "zero_target-0.parquet")
    assert table.groups == groups
    assert (tmp_path / "run" / "report" / "index.html").is_file()
    with Image.open(tmp_path / "run" / "queries" / "sample-0.png") as sample:
        assert (sample.size, sample.mode) == ((8, 8), "RGB" if kind == "parquet" else "L")


def test_validate_scores_the_validation_data_against_the_store(finished_run: Path, guda: Guda) -> None:
    out = guda(
        "validate",
        *("-c", "callbacks/elbo_attribution.yaml", "--run", finished_run),
        *("--trainer.logger", "lightning.pytorch.loggers.CSVLogger"),
        *("--trainer.logger.init_args.save_dir", finished_run / "logs"),
        options=DIGITS,
    )
    assert "val/loss" in out
    (metrics,) = (finished_run / "logs").rglob("metrics.csv")
    (row,) = csv.DictReader(io.StringIO(metrics.read_text()))
    assert {f"influence/{group}" for group in GROUPS} <= set(row)
    assert all(np.isfinite(float(row[f"influence/{group}"])) for group in GROUPS)
