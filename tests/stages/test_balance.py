"""``guda balance`` through the command line: by guidance and by a LoRA, interrupted, refused, shown."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DDPMScheduler
from PIL import Image

from guda_lightning.cli.main import main
from guda_lightning.data import Digits, GroupDataModule
from guda_lightning.diffusion import DiffusionModule, open_full, sample
from guda_lightning.posteriors import GUIDANCE, PosteriorStore, open_posterior, steered
from guda_lightning.stages import drawing
from guda_lightning.stages.balancing import first_noise
from toys import tiny_unet
from wandb_files import runs

CONF = Path(__file__).parents[1] / "conf"
DIGITS = ["-c", str(CONF / "digits.yaml")]
# As many as the tiny network can do: hardly any of its images lead with anything.
FEW = [
    "-c",
    str(CONF / "attribute.yaml"),
    "--num",
    "4",
    "--steps",
    "5",
    "--batch_size",
    "3",
    "--groups",
    "3,7",
    "--seed",
    "3",
]
WORK = "checkpoints/balance-guidance"  # until a set is complete
JOINT = ("0+1+2+4+5+6+7+8+9", "0+1+2+3+4+5+6+8+9")  # all but 3, and all but 7

Guda = Callable[..., str]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def guda(capsys: pytest.CaptureFixture[str]) -> Guda:
    """Run a command; returns what it printed, or what it said when it refused."""

    def run(*arguments: object, code: int = 0) -> str:
        capsys.readouterr()
        found = main(list(map(str, arguments)))
        out, err = capsys.readouterr()
        assert found == code, err
        return out if code == 0 else err

    return run


@pytest.fixture(scope="session")
def _balanced_run(_guided_run: Path, grown: Callable[..., Path]) -> Path:
    logger = ["--trainer.logger.class_path", "lightning.pytorch.loggers.WandbLogger"]
    logger += ["--trainer.logger.init_args.offline", "true", "--trainer.logger.init_args.project", "guda"]
    logger += ["--trainer.logger.init_args.save_dir", "{run}"]
    return grown("balanced", _guided_run, ["balance", *DIGITS, *FEW, "--least", "0", *logger])


@pytest.fixture
def balanced_run(_balanced_run: Path, tmp_path: Path) -> Path:
    """A copy of a guided run with a set by guidance, whatever leads its images."""
    return Path(shutil.copytree(_balanced_run, tmp_path / "tiny"))


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def balance(run: Path, *options: object) -> list[object]:
    return ["balance", *DIGITS, *FEW, "--run", run, *options]


def test_the_set_holds_what_leads_and_the_page_and_wandb_show_it(
    balanced_run: Path, _guided_run: Path, _balanced_run: Path, guda: Guda
) -> None:
    before, out = files(_guided_run), _balanced_run.with_name("told.txt").read_text()
    # Of 3 and 7, four images in five steps; 64 training images, at most 16 a digit; 10 evaluations an image.
    assert out.startswith(
        "balance: 8 images of 2 groups x 5 steps, and 720 network evaluations to attribute "
    )
    assert not (balanced_run / WORK).exists()
    after = files(balanced_run)
    assert {name: after[name] for name in before} == before

    folder = balanced_run / "balanced" / "guidance"
    manifest, record = (
        pd.read_csv(folder / "manifest.csv"),
        json.loads((folder / "record.json").read_text()),
    )
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}
    assert written == set(manifest["file"])
    assert manifest["kept"].tolist() == [file.startswith("images/") for file in manifest["file"]]
    assert manifest["kept"].tolist() == (manifest["margin"] > 0).tolist()
    assert manifest["kept"].tolist() == (manifest["leads_with"] == manifest["group"]).tolist()
    for one in record["groups"]:
        rows = manifest[manifest["group"] == int(one["name"])]
        assert rows["index"].tolist() == list(range(len(rows)))
        assert (one["drawn"], one["kept"]) == (len(rows), int(rows["kept"].sum()))
        assert one["leading"] == int(rows["kept"][:4].sum()) and one["checked"] == 4
        assert (
            f"balance: {one['name']}: {one['leading']} of the first 4 lead with it, {one['kept']} of " in out
        )
    assert record["config"]["operator"] == record["judge"]["method"] == GUIDANCE

    assert guda("report", balanced_run) != ""
    page = (balanced_run / "report" / "index.html").read_text("utf-8")
    section = page[page.index('<section id="balance"') :]
    section = section[: section.index("</section>")]
    assert "Drawn by guidance, 2 groups x 4 images: of the first 8 that were drawn, " in section
    assert section.count("data:image/png") == int(manifest["kept"].sum())

    logged = runs(balanced_run)[f"balance {GUIDANCE}"]
    assert logged.about == (balanced_run.name, "balance", f"balance {GUIDANCE}")
    assert logged.config["num"] == 4 and logged.config["full_hash"] == record["config"]["full_hash"]
    columns, rows, _ = logged.table("balance/table")
    assert columns[:5] == ["group", "drawn by", "training images", "drawn", "kept"]
    assert [row[0] for row in rows] == ["3", "7"]

    unfinished = balanced_run / "checkpoints" / "balance-guidance"
    (unfinished / "scores").mkdir(parents=True)  # as a kill just before the end leaves it
    again = guda(*balance(balanced_run, "--least", 0))
    assert not unfinished.exists()
    assert again == f"balance: {folder} is complete, skipped\n"
    assert files(folder) == {
        name.removeprefix("balanced/guidance/"): content
        for name, content in after.items()
        if name.startswith("balanced/")
    }


def test_an_image_is_what_the_steered_model_draws_from_its_noise(balanced_run: Path) -> None:
    full = open_full(balanced_run / "full", DiffusionModule(tiny_unet(), DDPMScheduler()))
    data = GroupDataModule(Digits(), limit=64, seed=0)
    posterior, _ = open_posterior(
        PosteriorStore(balanced_run / "store"), GUIDANCE, full.model.schedule, seed=0, data=data
    )
    model = steered(full.model, posterior, "7")
    indices = [first_noise("7") + index for index in (0, 3)]
    drawn = sample(model, full.scheduler, (1, 8, 8), indices, seed=3, steps=5)
    for number, image in zip((0, 3), drawn, strict=True):
        (file,) = (balanced_run / "balanced").glob(f"guidance/*/7/{number:08d}.png")
        expected = (image[0].clamp(-1, 1) + 1) * 127.5
        # Sums of other batches: now and then another of 256 levels.
        assert np.abs(np.asarray(Image.open(file)).astype(float) - expected.numpy()).max() < 1


def test_an_interrupted_set_goes_on_and_ends_alike(
    guided_run: Path, _balanced_run: Path, guda: Guda, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, calls = drawing.sample, 0

    def interrupted(*arguments: Any, **options: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls > 4:
            raise KeyboardInterrupt
        return draw(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(drawing, "sample", interrupted)
        guda(*balance(guided_run, "--least", 0), code=130)
    assert not (guided_run / "balanced").exists()
    assert (guided_run / WORK / "drawn" / "3" / "0" / "record.json").is_file()
    out = guda(*balance(guided_run, "--least", 0))
    assert out.startswith(
        "balance: the first images of 1 of 2 groups are drawn already\nbalance: 4 images of 1 groups x "
    )
    found, expected = (files(run / "balanced") for run in (guided_run, _balanced_run))
    assert found == expected


def test_a_set_that_is_not_balanced_is_refused_and_kept_for_a_lower_bar(
    guided_run: Path, guda: Guda, monkeypatch: pytest.MonkeyPatch
) -> None:
    err = guda(*balance(guided_run, "--least", 1), code=2)
    assert err.startswith("error: too few of the images that were drawn for 2 of 2 groups lead with them\n")
    assert err.endswith(
        "  expected: at least 100% of each\n"
        "  fix:      train the full model, or what steers it, for longer; or leave these groups out with "
        f"--groups, or pass a lower --least: what was drawn stays in {guided_run}/{WORK}\n"
    )
    assert not (guided_run / "balanced").exists()
    drawn = [path.parent.name for path in (guided_run / WORK).glob("drawn/*/0/record.json")]
    assert sorted(drawn) == ["0", "0"]

    draw, indices = drawing.sample, []

    def watched(*arguments: Any, **options: Any) -> torch.Tensor:
        indices.extend(arguments[3])
        return draw(*arguments, **options)

    monkeypatch.setattr(drawing, "sample", watched)
    out = guda(*balance(guided_run, "--least", 0))
    assert out.startswith("balance: the first images of 2 of 2 groups are drawn already\nbalance: 3: ")
    firsts = {first_noise(group) + index for group in "37" for index in range(4)}
    assert indices and not firsts & set(indices)

    err = guda(*balance(guided_run, "--least", 0.9), code=2)  # what is written is held to the bar, too
    assert err.startswith("error: too few of the images that were drawn for 2 of 2 groups lead with them\n")
    assert err.endswith(f"what was drawn stays in {guided_run}/balanced/guidance\n")
    other = guda(*balance(guided_run, "--least", 0, "--steps", 6), code=2)
    assert other == (
        f"error: {guided_run}/balanced/guidance was made with another configuration\n"
        "  found:    steps = 5\n"
        "  expected: steps = 6\n"
        "  fix:      use another --run, restore the configuration, or remove "
        f"{guided_run}/balanced/guidance\n"
    )


def test_models_of_single_groups_are_drawn_from(guided_run: Path, guda: Guda) -> None:
    by_lora = balance(guided_run, "--least", 0, "--operator", "finetune")
    assert guda(*by_lora, code=2) == (
        f"error: there is no model of 2 of 2 groups alone in {guided_run}/store\n"
        f"  found:    no finetune (seed 0) without {JOINT[0]}; nor without {JOINT[1]}\n"
        "  expected: for each group, the full model after all other groups were unlearned together\n"
        f"  fix:      run guda unlearn with --groups {','.join(JOINT)} and -c unlearn/finetune.yaml, or "
        "leave out --operator: a posterior steers to each group\n"
    )
    made = ["-c", "unlearn/finetune.yaml", "--steps", "2", "--lora.rank", "2", "--groups", ",".join(JOINT)]
    guda("unlearn", *DIGITS, *made, "--run", guided_run)
    out = guda(*by_lora)
    assert "balance: Drawn by finetune, 2 groups x 4 images: of the first 8 that were drawn, " in out
    record = json.loads((guided_run / "balanced" / "finetune" / "record.json").read_text())
    assert len(set(record["config"]["models"].values())) == 2  # networks, not one posterior


@pytest.mark.parametrize(
    ("options", "problem", "found", "expected", "fix"),
    [
        (
            ("--groups", "3,77"),
            "unknown group '77'",
            "'77'",
            "one of 10 groups; nearest: '7'",
            "correct the name",
        ),
        (
            ("--groups", "3+7"),
            "images are drawn for groups one by one",
            "3+7",
            "one of 10 groups",
            "pass --groups 3,7",
        ),
        (("--least", "1.5"), "least is out of range", "1.5", "0 <= least <= 1", "take the usual 0.9"),
        (("--num", "0"), "num is out of range", "0", "num >= 1", "pass --num 1 or more"),
        (
            ("-c", "attribute/similarity.yaml", "--attributor.init_args.groups", '["3","7"]'),
            "an image leads with a group among all groups",
            "an attributor of 2 of 10 groups",
            "all groups that have samples",
            "leave out the attributor's groups",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_the_work(
    guided_run: Path, guda: Guda, options: tuple[str, ...], problem: str, found: str, expected: str, fix: str
) -> None:
    err = guda(*balance(guided_run, *options), code=2)
    assert err == f"error: {problem}\n  found:    {found}\n  expected: {expected}\n  fix:      {fix}\n"
    assert not (guided_run / WORK).exists()


def test_without_a_posterior_the_command_that_makes_it_is_named(finished_run: Path, guda: Guda) -> None:
    assert guda(*balance(finished_run), code=2) == (
        f"error: there is no posterior of kind guidance in {finished_run}/store/posteriors\n"
        "  found:    none of any kind\n"
        "  expected: one with seed 0\n"
        "  fix:      run guda guide\n"
    )
