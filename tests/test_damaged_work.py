"""What an interrupted command left is made again where it is damaged, and nothing changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import struck
from guda_lightning import ScoreTable
from guda_lightning.cli.main import main
from warm import Server

CONF = Path(__file__).parent / "conf"
WEIGHTS = "full/unet/diffusion_pytorch_model.safetensors"
CHUNK = 2  # queries


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # as the children: sums come out the same


def command(stage: str, run: Path) -> list[str]:
    files = [CONF / f"{name}.yaml" for name in ("digits", stage)]
    return [stage, *(f for file in files if file.is_file() for f in ("-c", str(file))), "--run", str(run)]


def killed(warm: Server, run: Path, stage: str, number: int, path: str) -> None:
    """Run a stage and kill it just before the n-th rename to a path."""
    arguments = command(stage, run), CHUNK, "SIGKILL", number, path
    with warm.process(run.with_name("log.txt"), struck.guda, *arguments) as process:
        assert process.wait() == -9


@pytest.fixture(scope="module")
def unfinished(warm: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose training was killed in its second epoch."""
    run = tmp_path_factory.mktemp("unfinished") / "run"
    killed(warm, run, "fit", 2, "checkpoints/fit/resume")
    return run


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def noted(path: Path, then: str, out: str) -> None:
    (note,) = (
        line for line in out.splitlines() if line.startswith(f"{path} is damaged: contents with sha256 ")
    )
    assert note.endswith(f"; {then}")


@pytest.mark.parametrize(
    ("name", "then"),
    [
        ("resume/trainer.ckpt", "the training begins again"),
        ("resume/seal.json", "the training begins again"),
        ("record.json", "what it is beside begins again"),
    ],
)
def test_a_training_begins_again(
    name: str,
    then: str,
    unfinished: Path,
    finished_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = Path(shutil.copytree(unfinished, tmp_path / "run"))
    flip(run / "checkpoints" / "fit" / name)
    assert main(command("fit", run)) == 0
    out = capsys.readouterr().out
    noted(run / "checkpoints" / "fit" / name, then, out)
    assert "going on from" not in out
    assert (run / WEIGHTS).read_bytes() == (finished_run / WEIGHTS).read_bytes()


def test_a_checkpoint_of_an_earlier_version_is_kept_and_refused(
    unfinished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(unfinished, tmp_path / "run"))
    folder = run / "checkpoints" / "fit" / "resume"
    (folder / "seal.json").unlink()
    assert main(command("fit", run)) == 2
    assert capsys.readouterr().err == (
        f"error: {folder} cannot be gone on with\n"
        f"  found:    {folder}: no seal\n"
        "  expected: the seal.json of a folder that this version wrote\n"
        f"  fix:      finish it with the version that began it, or remove {folder} to begin again\n"
    )
    assert (folder / "trainer.ckpt").is_file()


def test_a_batch_is_drawn_again(
    warm: Server, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    shutil.rmtree(run / "queries")
    killed(warm, run, "sample", 4, "checkpoints/sample/")  # the record and two batches are kept
    flip(run / "checkpoints" / "sample" / "0.safetensors")
    assert main(command("sample", run)) == 0
    noted(run / "checkpoints" / "sample" / "0.safetensors", "it is drawn again", capsys.readouterr().out)
    for path in (finished_run / "queries").iterdir():
        assert (run / "queries" / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_part_of_a_table_is_scored_again(
    warm: Server, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    table = Path("scores", "retrack-0.parquet")
    (run / table).unlink()
    killed(warm, run, "attribute", 2, ".parts/")
    part = run / table.with_suffix(".parts") / "0.parquet"
    flip(part)
    assert main(command("attribute", run)) == 0
    noted(part, "it is scored again", capsys.readouterr().out)
    mine, theirs = (ScoreTable.load(folder / table) for folder in (run, finished_run))
    assert torch.equal(mine.select(weighting="elbo").matrix(), theirs.select(weighting="elbo").matrix())
