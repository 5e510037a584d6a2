"""`guda property` on the tiny run, through the command line."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from guda_lightning.cli.main import main
from guda_lightning.data import Digits, GroupDataModule
from guda_lightning.errors import StoreError
from guda_lightning.report.property_section import property_lines, read_property
from guda_lightning.scores import ScoreTable
from guda_lightning.stages import set_property
from toys import message
from wandb_files import runs

CONF, OWN = Path(__file__).parent.parent / "conf", Path(__file__).parent.parent / "attribution"
BRIGHTNESS = "guda_lightning.attribution.Brightness"
SMALL = ["--posterior", "image_kernel", "--steps", "6", "--num", "6", "--batch_size", "4"]


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(OWN)
    yield


@pytest.fixture(scope="session")
def _kernel_run(_finished_run: Path, grown: Callable[..., Path]) -> Path:
    return grown(
        "image kernel", _finished_run, ["guide", "-c", f"{CONF}/digits.yaml", "--posterior", "image_kernel"]
    )


@pytest.fixture
def kernel_run(_kernel_run: Path, tmp_path: Path) -> Path:
    """A copy of a finished run with an image kernel in its store."""
    return Path(shutil.copytree(_kernel_run, tmp_path / "tiny"))


def measure(run: Path, *options: str, of: str = BRIGHTNESS) -> int:
    command = ["property", "-c", f"{CONF}/digits.yaml", "--run", str(run), "--property", of]
    return main([*command, *SMALL, *options])


def test_a_planted_property_is_found_and_shown(kernel_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Looking like a digit is raised by that digit more than by any other."""
    capsys.readouterr()
    logged = ["--trainer.logger", "lightning.pytorch.loggers.WandbLogger", "--trainer.logger.offline", "true"]
    logged += ["--trainer.logger.save_dir", str(kernel_run)]
    planted = ["--num", "16", "--batch_size", "16"]
    assert measure(kernel_run, *planted, *logged, of="own_property.LikeDigit") == 0
    out = capsys.readouterr().out
    first, *rest = out.splitlines()
    assert first.startswith("property: 11 sets of 16 images x 6 steps, 176 images left: about ")
    (path,) = kernel_run.glob("properties/like-a-digit-leave_one_out_image_kernel-0-????????.parquet")
    table = ScoreTable.load(path)
    scores = dict(zip(table.groups, table.matrix()[0].tolist(), strict=True))
    errors = dict(zip(table.groups, table.stderr_matrix()[0].tolist(), strict=True))
    assert max(scores, key=scores.__getitem__) == "0" and scores["0"] > 2 * errors["0"]
    assert rest == property_lines(*read_property(path)) and "raised by 0 (" in rest[0]
    (kernel_run / "checkpoints" / f"property-{path.stem}").mkdir(parents=True)  # a kill just before the end
    assert measure(kernel_run, *planted, of="own_property.LikeDigit") == 0
    assert capsys.readouterr().out.startswith(f"property: {path} is complete, skipped\n")
    assert not list(kernel_run.glob("checkpoints/property*"))
    run = runs(kernel_run)["property like a digit"]
    assert run.about[1] == "property" and run.table("properties/table")[1][0][1] == "0"
    assert main(["report", str(kernel_run)]) == 0
    page = (kernel_run / "report" / "index.html").read_text("utf-8")
    assert 'id="properties"' in page and "What each group does to a whole set of samples" in page


def test_shapley_values_sum_to_the_whole(kernel_run: Path) -> None:
    """With many players, too, where coalitions are drawn."""
    options = ["--worth", "shapley_permutation", "--reference", "9", "--count", "2", "--num", "2"]
    assert measure(kernel_run, *options, "--steps", "3") == 0
    (path,) = kernel_run.glob("properties/*.parquet")
    table, values = read_property(path)
    assert (
        table.groups == tuple("012345678")
        and path.stem[:-8] == "brightness-shapley_permutation_image_kernel-0-"
    )
    whole = values[0].mean() - values[-1].mean()  # the last coalition is all of them
    assert table.matrix().sum().item() == pytest.approx(whole.item())
    assert "the draw of coalitions" in property_lines(table, values)[1]


def test_batches_change_nothing_and_an_interrupted_one_goes_on(
    kernel_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, drawn, sample = kernel_run.parent / "whole", [], set_property.sample
    shutil.copytree(kernel_run, whole)
    assert measure(whole, "--groups", "3,7", "--batch_size", "6") == 0

    def interrupted(*arguments: Any, **options: Any) -> Tensor:
        if len(drawn) == 3:
            raise KeyboardInterrupt
        drawn.append(arguments)
        return sample(*arguments, **options)

    monkeypatch.setattr(set_property, "sample", interrupted)
    assert measure(kernel_run, "--groups", "3,7") != 0
    monkeypatch.setattr(set_property, "sample", sample)
    capsys.readouterr()
    assert measure(kernel_run, "--groups", "3,7", "--batch_size", "6") == 2
    (unfinished,) = kernel_run.glob("checkpoints/property-*")
    assert capsys.readouterr() == (
        "",
        f"error: {unfinished} was made with another configuration\n  found:    batch_size = 4\n"
        "  expected: batch_size = 6\n"
        f"  fix:      use another --run, restore the configuration, or remove {unfinished}\n",
    )
    assert measure(kernel_run, "--groups", "3,7") == 0
    assert "3 sets of 6 images x 6 steps, 8 images left" in capsys.readouterr().out
    tables = [read_property(next(run.glob("properties/*.parquet"))) for run in (whole, kernel_run)]
    assert tables[0][0].record == tables[1][0].record
    torch.testing.assert_close(tables[0][1], tables[1][1], rtol=1e-5, atol=1e-6)


# refused


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--reference", "9"],
            "reference has no use here: each group is left out by itself\n  found:    --reference 9\n"
            "  expected: options of one kind of value\n"
            "  fix:      leave out --reference, or pass --worth shapley",
        ),
        (
            ["--worth", "banzhaf", "--groups", "3"],
            "groups has no use here: all groups play\n  found:    --groups 3\n"
            "  expected: options of one kind of value\n"
            "  fix:      leave out --groups, or pass --worth leave_one_out",
        ),
        (
            ["--worth", "shapley", "--reference", "9", "--count", "12"],
            "there are too few draws to fit the regression\n"
            "  found:    12 draws, 22 coalitions of 9 players\n"
            "  expected: so many that any 11 of them determine all 8 coefficients\n"
            "  fix:      pass a larger --count, such as 200",
        ),
        (
            ["--num", "1"],
            "num is out of range\n  found:    1\n  expected: num >= 2\n"
            "  fix:      pass --num 2 or more: the standard error needs two images",
        ),
    ],
)
def test_options_that_do_not_go_are_refused(
    options: list[str], said: str, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert measure(finished_run, *options) == 2
    assert capsys.readouterr().err == f"error: {said}\n"


def test_classes_that_are_the_groups_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is drawn: the model without a class has no image of it."""
    network = "--model.init_args.denoiser.init_args"
    conditional = [*("--run", str(tmp_path)), "--model.init_args.conditional", "true"]
    conditional += [f"{network}.num_class_embeds", "10", "--trainer.max_steps", "1"]
    for stage, *options in (["fit"], ["guide", "--posterior", "image_kernel"]):
        assert main([stage, "-c", f"{CONF}/digits.yaml", *conditional, *options]) == 0
    capsys.readouterr()
    assert measure(tmp_path, *conditional[2:], "--groups", "7,3") == 2
    labels = GroupDataModule(Digits(), batch_size=16, limit=64).labels
    assert capsys.readouterr() == (
        "",
        "error: without 3, no training image of class 3 is left\n"
        f"  found:    {int((labels == 3).sum())} images of that class\n"
        "  expected: some that are in none of these groups\n"
        "  fix:      remove fewer groups at once, or group the images by something else than their classes\n",
    )


def test_values_that_are_gone_are_refused(tmp_path: Path, kernel_run: Path) -> None:
    assert measure(kernel_run, "--groups", "3") == 0
    assert measure(kernel_run, "--groups", "7") == 0
    path, _ = sorted(kernel_run.glob("properties/*.parquet"))  # each has a file of its own
    values = path.with_suffix(".safetensors")
    values.write_bytes(b"")
    with pytest.raises(StoreError) as refused:
        read_property(path)
    expected = message(
        f"{values} is damaged",
        "no seal",
        "the seal of a file that this version wrote",
        f"remove {path} and run guda property again",
    )
    assert refused.match(expected)
