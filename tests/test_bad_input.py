"""What bad input gets: a message with the fix, before any long work, exit code 2, and nothing written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save

from guda_lightning.cli.main import main
from guda_lightning.report import charts
from toys import reseal

CONF = Path(__file__).parent / "conf"
STAGES = {"fit": [], "sample": ["sample"], "unlearn": ["unlearn"], "attribute": ["attribute"]}
Refused = Callable[..., None]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # a second one would only wait: the networks are tiny


def command(stage: str, *arguments: object) -> list[str]:
    files = [CONF / f"{name}.yaml" for name in ["digits", *STAGES[stage]]]
    return [stage, *(part for file in files for part in ("-c", str(file))), *map(str, arguments)]


def state(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")} if folder.exists() else {}


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a stage that must fail with exactly this message, and leave its run folder as it was."""

    def check(
        arguments: list[str],
        problem: str,
        *,
        found: object,
        expected: object,
        fix: str,
        run: Path | None = None,
    ) -> None:
        run = run or tmp_path / "run"
        before = state(run)
        capsys.readouterr()
        code = main([*arguments, "--run", str(run)])
        out, err = capsys.readouterr()
        shown = err[err.index("error: ") :] if "error: " in err else err  # after progress bars
        assert shown == f"error: {problem}\n  found:    {found}\n  expected: {expected}\n  fix:      {fix}\n"
        assert code == 2
        assert "written" not in out
        assert state(run) == before

    return check


# --- data


def picture(path: Path, size: tuple[int, int] = (8, 8), mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(str(path))).integers(0, 256, (*size[::-1], len(mode)), dtype=np.uint8)
    Image.fromarray(pixels.squeeze()).save(path)
    return path


def folder_of(path: Path) -> list[str]:
    source = ["--data.init_args.source", "guda_lightning.data.ImageFolder"]
    return [*source, "--data.init_args.source.init_args.path", str(path), "--data.init_args.limit", "null"]


def parquet_of(path: Path) -> list[str]:
    source = ["--data.init_args.source", "guda_lightning.data.Parquet"]
    return [*source, "--data.init_args.source.init_args.path", str(path), "--data.init_args.limit", "null"]


@pytest.mark.parametrize("stage", ["fit", "unlearn"])
def test_a_data_path_that_does_not_exist(stage: str, refused: Refused, tmp_path: Path) -> None:
    refused(
        command(stage, *folder_of(tmp_path / "nope")),
        f"the image folder {tmp_path}/nope cannot be read",
        found="nothing there",
        expected="a folder with one subfolder of images per group",
        fix="correct the path",
    )


def test_a_parquet_path_that_does_not_exist(refused: Refused, tmp_path: Path) -> None:
    refused(
        command("fit", *parquet_of(tmp_path / "nope.parquet")),
        f"no Parquet file at {tmp_path}/nope.parquet",
        found="nothing there",
        expected="a .parquet file, a folder of them, or a pattern that matches some",
        fix="correct the path",
    )


def test_a_column_that_does_not_exist(refused: Refused, tmp_path: Path) -> None:
    file = picture(tmp_path / "a.png").read_bytes()
    pq.write_table(pa.table({"image": [{"bytes": file, "path": None}], "label": [0]}), tmp_path / "d.parquet")
    refused(
        command("fit", *parquet_of(tmp_path / "d.parquet")),
        f"{tmp_path}/d.parquet has no column 'img'",
        found="the columns 'image', 'label'",
        expected="a column 'img'",
        fix="name another column, perhaps 'image'",
    )


def test_a_folder_without_a_readable_image(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "data" / "cats").mkdir(parents=True)
    (tmp_path / "data" / "cats" / "notes.txt").write_text("no image")
    refused(
        command("fit", *folder_of(tmp_path / "data")),
        f"the image folder {tmp_path}/data has no images",
        found="1 file that is no image: 1 caption or metadata file (cats/notes.txt)",
        expected="one subfolder of images per group",
        fix="correct the path, or convert the images",
    )


def test_an_image_that_is_none(refused: Refused, tmp_path: Path) -> None:
    picture(tmp_path / "data" / "cats" / "a.png")
    (tmp_path / "data" / "cats" / "b.png").write_bytes(b"<html>404</html>")
    refused(
        command("fit", *folder_of(tmp_path / "data")),
        "the image 'cats/b.png' cannot be read",
        found="no picture in a format that Pillow knows",
        expected="complete pictures of 8 bits per channel",
        fix="repair, convert or remove them",
    )


def test_images_that_would_have_to_be_enlarged(refused: Refused, tmp_path: Path) -> None:
    picture(tmp_path / "data" / "cats" / "a.png", (12, 10))
    picture(tmp_path / "data" / "dogs" / "b.png", (12, 6))
    refused(
        command("fit", *folder_of(tmp_path / "data")),
        "the image 'dogs/b.png' is smaller than the network takes",
        found="12 x 6 pixels",
        expected="8 x 8 pixels, the sample_size of the network",
        fix="build the network with a smaller sample_size, or set data.image_size, which enlarges it",
    )


def test_images_that_the_network_does_not_take(refused: Refused, tmp_path: Path) -> None:
    for index in range(4):
        picture(tmp_path / "data" / f"group {index % 2}" / f"{index}.png", mode="RGB")
    refused(
        command("fit", *folder_of(tmp_path / "data")),
        "UNet2DModel cannot be called with this data",
        found="Given groups=1, weight of size [8, 1, 3, 3], expected input[1, 3, 8, 8] to have 1 channels, "
        "but got 3 channels instead",
        expected="a network for 3 channels of 8 x 8 pixels, without labels, timesteps 0 to 49 (int64)",
        fix="make in_channels, out_channels and num_class_embeds of the network, conditional and "
        "scheduler of the module, and channels and image_size of the data fit together",
    )


def test_metadata_about_a_sample_that_does_not_exist(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("id,group\n0,even\n1,odd\n5000,even\n")
    refused(
        command("fit", "--data.init_args.groups", tmp_path / "groups.csv"),
        f"{tmp_path}/groups.csv, line 4: unknown sample '5000'",
        found="id '5000'",
        expected="one of 1797 samples; nearest: '500', '1500', '1000'",
        fix="correct the column 'id' or remove the line",
    )


def test_a_stage_without_data(refused: Refused) -> None:
    refused(
        command("unlearn", "--data", "null"),
        "guda unlearn needs the training data",
        found="no data in the configuration",
        expected="a GroupDataModule, which knows the groups",
        fix="add the section `data`, as in digits.yaml of `guda configs`",
    )


def test_bad_data_mended_is_no_other_configuration(
    refused: Refused, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Nothing of the failed attempt stands in the way of the next one.
    huge = command("fit", "--model.init_args.optimizer.init_args.lr", "1e30", "--run", tmp_path / "run")
    assert main(huge) == 2
    err = capsys.readouterr().err
    assert err[err.index("error: ") :] == (
        "error: the training loss is not finite at step 1\n"
        "  found:    nan\n"
        "  expected: a finite number\n"
        "  fix:      check the images for NaN, lower the learning rate, "
        "or set trainer.gradient_clip_val=1.0\n"
    )
    assert not (tmp_path / "run" / "full").exists()
    assert main(command("fit", "--run", tmp_path / "run")) == 0


# --- groups and objectives


def test_a_group_that_does_not_exist(refused: Refused) -> None:
    refused(
        command("unlearn", "--groups", "3,33"),
        "unknown group '33'",
        found="'33'",
        expected="one of 10 groups; nearest: '3'",
        fix="correct the name",
    )


def test_a_group_without_samples(refused: Refused) -> None:
    refused(
        command("unlearn", "--groups", "0", "--data.init_args.limit", 3, "--data.init_args.seed", 1),
        "group '0' has no samples",
        found="0 samples",
        expected="at least 1: removing an empty group changes nothing",
        fix="leave it out, or raise the limit on the number of samples",
    )


def test_a_group_with_all_samples(refused: Refused, tmp_path: Path) -> None:
    for index in range(4):
        picture(tmp_path / "data" / "cats" / f"{index}.png")
    refused(
        command("unlearn", *folder_of(tmp_path / "data")),
        "the groups cats cover all training samples",
        found="4 of 4 samples",
        expected="some samples left to train on",
        fix="remove fewer groups at once",
    )


def test_a_folder_around_the_folders_of_groups(refused: Refused, tmp_path: Path) -> None:
    for group in ("cats", "dogs"):
        picture(tmp_path / "data" / "animals" / group / "0.png")
    refused(
        command("fit", *folder_of(tmp_path / "data")),
        "no group can be removed from the training data",
        found="2 of 2 samples in 'animals'",
        expected="a group, and samples outside of it",
        fix="set the path to the folder that holds the groups' folders, or data.groups to a table",
    )


def test_more_neighbours_than_retain_samples(refused: Refused, finished_run: Path) -> None:
    shutil.rmtree(finished_run / "store")
    refused(
        command("unlearn", "--objective.init_args.neighbours", 100, "--groups", "3"),
        "ReTrack sums over more neighbours than the retain set has samples",
        found="neighbours=100, retain set of 57",
        expected="neighbours <= 57",
        fix="lower objective.init_args.neighbours, or set it to null to sum over all",
        run=finished_run,
    )


@pytest.mark.parametrize(
    ("stage", "option"),
    [("unlearn", "steps"), ("sample", "num"), ("sample", "steps"), ("sample", "batch_size")],
)
def test_counts_below_one(stage: str, option: str, refused: Refused) -> None:
    refused(
        command(stage, f"--{option}", 0),
        f"{option} is out of range",
        found=0,
        expected=f"{option} >= 1",
        fix=f"pass --{option} 1 or more",
    )


# --- stages out of order


@pytest.mark.parametrize("stage", ["unlearn", "sample", "attribute", "validate"])
def test_every_stage_before_fit(stage: str, refused: Refused, tmp_path: Path) -> None:
    STAGES.setdefault("validate", [])
    refused(
        command(stage),
        "the full model does not exist",
        found=f"nothing at {tmp_path}/run/full",
        expected="a diffusers folder or a Lightning checkpoint",
        fix="pass --full PATH (full: PATH in the configuration), or train one with `guda fit`",
    )


def test_attribute_before_sample(refused: Refused, finished_run: Path) -> None:
    shutil.rmtree(finished_run / "queries")
    refused(
        command("attribute"),
        "there are no queries",
        found=f"nothing at {finished_run}/queries",
        expected="images to explain",
        fix="run `guda sample` with the same configuration first, or pass --queries FILE|FOLDER",
        run=finished_run,
    )


def test_attribute_before_unlearn(refused: Refused, finished_run: Path) -> None:
    shutil.rmtree(finished_run / "store")
    refused(
        command("attribute"),
        f"there are no counterfactuals in {finished_run}/store",
        found="no such folder",
        expected="one counterfactual for each group",
        fix="run guda unlearn with --groups 0,1,2,3,4,5,6,7,8,9",
        run=finished_run,
    )


def test_attribute_by_another_operator(refused: Refused, finished_run: Path) -> None:
    refused(
        command("attribute", "--operator", "finetune", "--groups", "3"),
        f"no counterfactual in {finished_run}/store was made by finetune",
        found="those of retrack",
        expected="operator finetune",
        fix="correct the operator, or run guda unlearn with --groups 3",
        run=finished_run,
    )


def counterfactual(run: Path, group: str) -> Path:
    (folder,) = (run / "store").glob(f"retrack-{group}-*")
    return folder


def test_attribute_while_some_counterfactuals_are_missing(refused: Refused, finished_run: Path) -> None:
    for group in ("3", "7"):
        shutil.rmtree(counterfactual(finished_run, group))
    refused(
        command("attribute"),
        f"counterfactuals are missing in {finished_run}/store",
        found="none of operator retrack, seed 0 for 3, 7",
        expected="one for each of 10 groups",
        fix="run guda unlearn with --groups 3,7",
        run=finished_run,
    )


def test_attribute_with_a_truncated_counterfactual(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = counterfactual(finished_run, "3") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    shutil.rmtree(finished_run / "scores")
    assert main(command("attribute", "--groups", "3", "--run", finished_run)) == 2
    err = capsys.readouterr().err
    assert f"error: {weights} is damaged\n" in err
    assert err.endswith(f"  fix:      remove {weights.parent} and run guda unlearn with --groups 3\n")
    assert not list((finished_run / "scores").glob("*.parquet"))


# --- counterfactuals of something else


def records(run: Path) -> dict[str, str]:
    record: dict[str, str] = json.loads((counterfactual(run, "0") / "record.json").read_text())
    return record


def test_counterfactuals_of_another_full_model(refused: Refused, finished_run: Path, tmp_path: Path) -> None:
    assert main(command("fit", "--model.init_args.seed", 1, "--run", tmp_path / "other")) == 0
    other = json.loads((tmp_path / "other" / "full" / "record.json").read_text())["full_hash"]
    folder = counterfactual(finished_run, "0")
    message = {
        "problem": f"{folder}/record.json: the counterfactual 'retrack' without 0 (seed 0) "
        "was made from another full model",
        "found": f"full_hash {records(finished_run)['full_hash']}",
        "expected": f"full_hash {other}",
        "fix": f"use the full model it was made from, or remove {folder} "
        "and run guda unlearn with --groups 0",
    }
    for stage in ("attribute", "unlearn"):
        refused(command(stage, "--full", tmp_path / "other" / "full"), **message, run=finished_run)


def test_counterfactuals_of_another_schedule(refused: Refused, finished_run: Path, tmp_path: Path) -> None:
    full = Path(shutil.copytree(finished_run / "full", tmp_path / "other"))
    config = json.loads((full / "scheduler" / "scheduler_config.json").read_text())
    (full / "scheduler" / "scheduler_config.json").write_text(
        json.dumps({**config, "beta_schedule": "linear"})
    )
    for name in ("record.json", "seal.json"):
        (full / name).unlink()
    from guda_lightning.functional.schedule import NoiseSchedule

    betas = torch.linspace(config["beta_start"], config["beta_end"], 50, dtype=torch.float32)
    schedule = NoiseSchedule.from_alphas_cumprod(torch.cumprod(1 - betas, dim=0))
    folder = counterfactual(finished_run, "0")
    refused(
        command("attribute", "--full", full),
        f"{folder}/record.json: the counterfactual 'retrack' without 0 (seed 0) "
        "was made from another noise schedule",
        found=f"schedule_hash {records(finished_run)['schedule_hash']}",
        expected=f"schedule_hash {schedule.hash}",
        fix=f"use the noise schedule it was made from, or remove {folder} "
        "and run guda unlearn with --groups 0",
        run=finished_run,
    )


@pytest.fixture
def other_groups(tmp_path: Path) -> Path:
    """The names of the digits for other sets of images."""
    rows = "".join(f"{index},{index % 10}\n" for index in range(1797))
    (tmp_path / "groups.csv").write_text(f"id,group\n{rows}")
    return tmp_path / "groups.csv"


def test_counterfactuals_of_another_grouping(
    refused: Refused, finished_run: Path, tmp_path: Path, other_groups: Path
) -> None:
    from guda_lightning.data import Digits, GroupDataModule

    grouping = GroupDataModule(Digits(), limit=64, groups=str(other_groups)).grouping
    full = Path(shutil.copytree(finished_run / "full", tmp_path / "other"))
    folder = counterfactual(finished_run, "0")
    refused(
        command("attribute", "--full", full, "--data.init_args.groups", other_groups),
        f"{folder}/record.json: the counterfactual 'retrack' without 0 (seed 0) "
        "was made from another grouping",
        found=f"grouping_hash {records(finished_run)['grouping_hash']}",
        expected=f"grouping_hash {grouping.hash}",
        fix=f"use the grouping it was made from, or remove {folder} and run guda unlearn with --groups 0",
        run=finished_run,
    )


@pytest.mark.parametrize("stage", ["unlearn", "attribute"])
def test_a_full_model_of_other_groups(
    stage: str, refused: Refused, finished_run: Path, other_groups: Path
) -> None:
    from guda_lightning.data import Digits, GroupDataModule

    now = GroupDataModule(Digits(), limit=64, groups=str(other_groups)).grouping.hash
    before = json.loads((finished_run / "full" / "record.json").read_text())["grouping_hash"]
    refused(
        command(stage, "--data.init_args.groups", other_groups),
        f"{finished_run}/full was trained on other data",
        found=f"grouping_hash {now[:16]} of the configured data",
        expected=f"grouping_hash {before[:16]}",
        fix="use the data section that the full model was trained with, or another --run",
        run=finished_run,
    )


# --- queries and scoring


def test_queries_that_do_not_exist(refused: Refused, finished_run: Path, tmp_path: Path) -> None:
    refused(
        command("attribute", "--queries", tmp_path / "me.png"),
        "there are no queries",
        found=f"nothing at {tmp_path}/me.png",
        expected="an image file or a folder of images",
        fix="correct the path",
        run=finished_run,
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("two\nlines.png", "'two\\nlines.png': a line break or control character in its name"),
        ("\udcff.png", "'\\udcff.png': a name that is no UTF-8"),
        ("clip.mp4", "'clip.mp4': no picture in a format that Pillow opens"),
    ],
)
def test_a_query_that_cannot_be_kept_is_refused_before_any_is_scored(
    refused: Refused, finished_run: Path, tmp_path: Path, name: str, reason: str
) -> None:
    shutil.copytree(finished_run / "queries", tmp_path / "q", ignore=shutil.ignore_patterns("*.json*"))
    (tmp_path / "q" / name).write_bytes(b"moov")
    shutil.rmtree(finished_run / "scores")
    refused(
        command("attribute", "--queries", tmp_path / "q"),
        f"{tmp_path}/q has 1 file that cannot be used",
        found=reason,
        expected="images that Pillow opens; captions, archives and files of the system are ignored",
        fix="convert, rename or remove what is named",
        run=finished_run,
    )


def test_queries_of_another_shape(refused: Refused, finished_run: Path, tmp_path: Path) -> None:
    query = picture(tmp_path / "me.png", (640, 480), "RGB")
    refused(
        command("attribute", "--queries", query),
        f"the query {query} does not fit the model",
        found="640 x 480 pixels, 3 channels",
        expected="8 x 8 pixels, 1 channel",
        fix="resize and convert it, or pass --resize true",
        run=finished_run,
    )


def test_charts_that_cannot_be_drawn(
    refused: Refused, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charts, "find_spec", lambda module: None)
    shutil.rmtree(finished_run / "scores")
    wandb = {"class_path": "WandbLogger", "init_args": {"offline": True, "save_dir": str(tmp_path)}}
    refused(
        command("attribute", "--trainer.logger", json.dumps(wandb)),
        "altair is not installed",
        found="no package named altair",
        expected="the optional dependencies of the extra 'report'",
        fix='pip install "guda-lightning[report]"',
        run=finished_run,
    )


def test_timesteps_outside_the_schedule(refused: Refused, finished_run: Path) -> None:
    refused(
        command("attribute", "--scoring.grid", "[10, 4000, 1000]"),
        "timesteps are outside the range of the ELBO",
        found="[1010, 2010, 3010]",
        expected="1 <= t <= 48 (schedule of 50 timesteps)",
        fix="choose start, stop and step inside 1..48",
        run=finished_run,
    )


def test_more_sampling_steps_than_the_schedule_has(refused: Refused, finished_run: Path) -> None:
    shutil.rmtree(finished_run / "queries")
    refused(
        command("sample", "--steps", 100),
        "the number of sampling steps is out of range",
        found="100",
        expected="1 to 50, the timesteps of the noise schedule",
        fix="pass --steps 50, or another number in that range",
        run=finished_run,
    )


# --- full models that are none


def test_a_full_model_that_does_not_exist(refused: Refused, tmp_path: Path) -> None:
    refused(
        command("unlearn", "--full", tmp_path / "nope"),
        "the full model does not exist",
        found=f"nothing at {tmp_path}/nope",
        expected="a diffusers folder or a Lightning checkpoint",
        fix="pass --full PATH (full: PATH in the configuration), or train one with `guda fit`",
    )


def test_a_folder_that_is_no_full_model(refused: Refused, tmp_path: Path) -> None:
    picture(tmp_path / "cats" / "a.png")
    refused(
        command("unlearn", "--full", tmp_path / "cats"),
        "this folder holds no full model",
        found=f"{tmp_path}/cats with ['a.png']",
        expected="model_index.json (a diffusers pipeline), config.json (a diffusers network) "
        "or denoiser/model.safetensors",
        fix="pass the folder that save_pretrained wrote, or run `guda fit` again",
    )


def test_a_file_that_is_no_checkpoint(refused: Refused, tmp_path: Path) -> None:
    torch.save({"weights": 3}, tmp_path / "other.ckpt")
    refused(
        command("unlearn", "--full", tmp_path / "other.ckpt"),
        "the full model cannot be read",
        found=f"{tmp_path}/other.ckpt: no state_dict inside, but the keys 'weights'",
        expected="a folder written by save_pretrained, a Lightning checkpoint, or a file with a state_dict",
        fix="restore the file, or run `guda fit` again",
    )


# --- run folders of something else


def test_fit_in_the_folder_of_another_configuration(refused: Refused, finished_run: Path) -> None:
    refused(
        command("fit", "--trainer.max_steps", 16),
        f"{finished_run}/full was made with another configuration",
        found="trainer.max_steps = 12",
        expected="trainer.max_steps = 16",
        fix=f"use another --run, restore the configuration, or remove {finished_run}/full",
        run=finished_run,
    )


def test_sampling_differently_in_the_same_folder(refused: Refused, finished_run: Path) -> None:
    refused(
        command("sample", "--num", 6),
        f"{finished_run}/queries was made with another configuration",
        found="num = 5",
        expected="num = 6",
        fix=f"use another --run, restore the configuration, or remove {finished_run}/queries",
        run=finished_run,
    )


def report(run: Path, *arguments: object) -> int:
    return main(["report", str(run), *map(str, arguments)])


def test_a_report_on_a_folder_that_does_not_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(tmp_path / "nope") == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path}/nope is no run folder\n"
        f"  found:    nothing at {tmp_path}/nope\n"
        "  expected: a folder that the stages wrote, with full, store or scores in it\n"
        "  fix:      `guda runs` lists those below this folder\n"
    )
    assert not (tmp_path / "nope").exists()


def test_a_report_before_attribute(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "record.json").touch()
    assert report(tmp_path) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path} has no score table\n"
        f"  found:    no .parquet file in {tmp_path}/scores\n"
        "  expected: the run folder of a finished `guda attribute`\n"
        "  fix:      run `guda attribute` with the configuration of this run first, or correct the path\n"
    )
    assert list(tmp_path.iterdir()) == [tmp_path / "full"]


def test_a_report_on_what_is_no_run_folder(
    finished_run: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def said(path: Path) -> list[str]:
        assert report(path) == 2
        problem, found, _, fix = capsys.readouterr().err.splitlines()
        assert problem == f"error: {path} is no run folder"
        return [found.partition(":")[2].strip(), fix.partition(":")[2].strip()]

    meant = f"did you mean {finished_run}?"
    assert said(tmp_path) == ["a folder of 1 run folders: tiny", meant]
    assert said(tmp_path / "tinny") == [f"nothing at {tmp_path}/tinny", meant]
    assert said(finished_run / "scores")[1] == meant
    assert said(finished_run / "report" / "index.html") == ["a file", meant]
    monkeypatch.chdir(tmp_path)
    assert said(Path("tiny/scores"))[1] == "did you mean tiny?"
    (tmp_path / "pictures" / "cats").mkdir(parents=True)
    lists = "`guda runs` lists those below this folder"
    assert said(tmp_path / "pictures") == ["a folder with cats", lists]
    assert said(tmp_path / "pictures" / "cats") == ["an empty folder", lists]


def test_a_report_on_a_table_that_does_not_exist(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = state(finished_run)
    assert report(finished_run, "--scores", finished_run / "scores" / "nope.parquet") == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and f"{finished_run}/scores/nope.parquet" in err and "  fix: " in err
    assert state(finished_run) == before


@pytest.mark.parametrize("content", [b"half", save({})])
def test_a_report_on_damaged_examples(
    content: bytes, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (finished_run / "examples.safetensors").write_bytes(content)
    assert report(finished_run) == 2
    err = capsys.readouterr().err
    assert f"{finished_run}/examples.safetensors" in err and "a few training images of every group" in err


@pytest.mark.parametrize(
    ("missing", "found", "expected"),
    [
        (
            "examples.safetensors",
            "no file {run}/examples.safetensors",
            "a few training images of every group",
        ),
        ("store", "0 of its 10 counterfactuals or posteriors in {run}/store", "all of them"),
    ],
)
def test_a_report_on_a_run_that_lost_something(
    missing: str, found: str, expected: str, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(finished_run / "report")
    lost = finished_run / missing
    shutil.rmtree(lost) if lost.is_dir() else lost.unlink()
    assert report(finished_run) == 2
    table = f"{finished_run}/scores/retrack-0.parquet"
    assert capsys.readouterr().err == (
        f"error: {finished_run} no longer holds what {table} was made from\n"
        f"  found:    {found.format(run=finished_run)}\n"
        f"  expected: {expected}\n"
        f"  fix:      restore it, or remove {table} and run `guda unlearn` and `guda attribute` again\n"
    )
    assert not (finished_run / "report").exists()


def test_a_report_on_the_table_of_other_queries(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queries = finished_run / "scores" / "queries" / "retrack-0"
    picture(queries / "sample-0.png")
    reseal(queries)
    before = state(finished_run)
    assert report(finished_run) == 2
    table = f"{finished_run}/scores/retrack-0.parquet"
    assert capsys.readouterr().err == (
        f"error: {finished_run} no longer holds what {table} was made from\n"
        f"  found:    other images in {finished_run}/scores/queries/retrack-0\n"
        "  expected: the queries of the table\n"
        f"  fix:      restore it, or remove {table} and run `guda unlearn` and `guda attribute` again\n"
    )
    assert state(finished_run) == before


# --- a misspelt class


def test_a_misspelt_class_of_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = tmp_path / "wrong.yaml"
    source = {"class_path": "guda_lightning.data.Digit"}
    wrong.write_text(yaml.safe_dump({"data": {"init_args": {"source": source}}}))
    assert main(command("fit", "-c", wrong, "--run", tmp_path / "run")) == 2
    assert capsys.readouterr().err == (
        "error: data.init_args.source: there is no class guda_lightning.data.Digit\n"
        "  found:    module 'guda_lightning.data' has no attribute 'Digit'\n"
        "  expected: the import path of a class, such as guda_lightning.DiffusionModule\n"
        "  fix:      use guda_lightning.data.Digits\n"
    )
    assert not (tmp_path / "run").exists()


# --- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = False

    def mount(kilobytes: int) -> Path:
        nonlocal mounted
        if os.geteuid() != 0:
            pytest.skip("no full disk without the right to mount one: run the tests as root")
        options = ["-t", "tmpfs", "-o", f"{'remount,' if mounted else ''}size={kilobytes}k"]
        done = subprocess.run(["mount", *options, "tmpfs", str(disk)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no full disk, mounting a tmpfs fails: {done.stderr.strip()}")
        mounted = True
        return disk

    yield mount
    if mounted:
        # Lazily, for weights that are still mapped into memory keep their files open.
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_while_training_and_then_a_larger_one(
    small_disk: Callable[[int], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = small_disk(200) / "run"
    assert main(command("fit", "--run", run)) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: the disk is full: {run}/checkpoints/fit/resume was not written\n")
    assert err.endswith(
        "  expected: room for the whole folder\n"
        f"  fix:      free space on the disk that holds {run}/checkpoints/fit and rerun; "
        "finished work is kept\n"
    )
    assert [path.name for path in run.rglob("*") if path.is_file()] == ["record.json"]
    small_disk(4000)
    assert main(command("fit", "--run", run)) == 0
    assert (run / "full" / "model_index.json").is_file()


def test_a_full_disk_while_unlearning_and_scoring(
    small_disk: Callable[[int], Path], finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = (finished_run / "scores" / "retrack-0.parquet").read_bytes()
    for path in (finished_run / "scores", finished_run / "report", counterfactual(finished_run, "7")):
        shutil.rmtree(path)
    run = Path(shutil.copytree(finished_run, small_disk(6000) / "run"))
    used = shutil.disk_usage(run).used // 1024
    small_disk(used + 60)
    assert main(command("unlearn", "--run", run)) == 2
    assert "error: the disk is full: " in capsys.readouterr().err
    assert not list((run / "store").glob("retrack-7-*")) and not list((run / "store").glob(".*"))
    small_disk(6000)
    assert main(command("unlearn", "--run", run)) == 0
    used = shutil.disk_usage(run).used // 1024
    small_disk(used + 20)
    assert main(command("attribute", "--run", run)) == 2
    assert "error: the disk is full: " in capsys.readouterr().err
    assert not list((run / "scores").glob("*.parquet")) and not list((run / "scores").rglob(".*"))
    small_disk(6000)
    assert main(command("attribute", "--run", run)) == 0
    assert (run / "scores" / "retrack-0.parquet").read_bytes() == table


def test_groups_that_labels_determine_are_refused_before_the_model_is_trained(refused: Refused) -> None:
    conditional = ("--model.init_args.conditional", "true")
    refused(
        ["run", "-c", str(CONF / "digits.yaml"), *conditional],
        "guidance does not support these groups: class labels of the conditional model determine them",
        found="one set of groups per label",
        expected="groups that the labels do not determine, or an unconditional model",
        fix="use guda unlearn, or group the samples by something else than their labels",
    )
