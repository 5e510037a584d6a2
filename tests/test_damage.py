"""A flipped bit in any file of a finished run is refused, or the file is made again and nothing changes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch

from guda_lightning import ScoreTable
from guda_lightning.cli.main import main

CONF = Path(__file__).parent / "conf"
OUTPUTS = {"report/index.html"}  # that no command reads
WHOLE = re.compile(r"error: \S.*\n  found:    \S.*\n  expected: \S.*\n  fix:      \S.*\n")

# Every kind of file, with the command that reads it: "score" is `guda attribute` without its table.
READ_BY = {
    "full/model_index.json": "attribute",
    "full/record.json": "attribute",
    "full/scheduler/scheduler_config.json": "attribute",
    "full/seal.json": "attribute",
    "full/unet/config.json": "attribute",
    "full/unet/diffusion_pytorch_model.safetensors": "attribute",
    "queries/metadata.jsonl": "attribute",
    "queries/record.json": "attribute",
    "queries/sample-N.png": "attribute",
    "queries/seal.json": "attribute",
    "store/NAME/record.json": "attribute",
    "store/NAME/model.safetensors": "score",
    "scores/errors/NAME.safetensors": "score",
    "scores/costs/retrack-0.json": "score",
    "scores/retrack-0.parquet": "report",
    "scores/nearest/retrack-0.safetensors": "report",
    "scores/queries/retrack-0/metadata.jsonl": "report",
    "scores/queries/retrack-0/record.json": "report",
    "scores/queries/retrack-0/sample-N.png": "report",
    "scores/queries/retrack-0/seal.json": "report",
    "examples.safetensors": "report",
    "history/NAME.json": "replay",
}
MADE_AGAIN = {"scores/errors/NAME.safetensors"}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # sums come out as in the run


def kind(path: Path, run: Path) -> str:
    name = re.sub(r"sample-\d+", "sample-N", path.relative_to(run).as_posix())
    return re.sub(r"(?<=store/)[^/]+|(?<=errors/)\w+|(?<=history/)[\w-]+", "NAME", name)


def files(run: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in sorted(run.rglob("*")):
        if path.is_file():
            found.setdefault(kind(path, run), []).append(path)
    return found


def command(name: str, run: Path) -> int:
    if name in ("report", "replay"):
        return main([name, str(run)])
    if name == "score":
        (run / "scores" / "retrack-0.parquet").unlink()
    shared = [part for file in ("digits", "attribute") for part in ("-c", str(CONF / f"{file}.yaml"))]
    return main(["attribute", *shared, "--run", str(run)])


def test_every_file_of_a_run_is_known_here(finished_run: Path) -> None:
    assert files(finished_run).keys() == READ_BY.keys() | OUTPUTS


@pytest.mark.parametrize("of", READ_BY)
def test_a_flipped_bit_is_refused_or_made_good(
    of: str, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = files(finished_run)[of][0]
    if of.startswith("store/"):
        shutil.rmtree(finished_run / "scores" / "errors")  # or weights would not be read
    before = path.read_bytes()
    scores = ScoreTable.load(finished_run / "scores" / "retrack-0.parquet")
    content = bytearray(before)
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    capsys.readouterr()
    code = command(READ_BY[of], finished_run)
    out, err = capsys.readouterr()
    if of in MADE_AGAIN:
        assert code == 0
        assert f"{path} is damaged: contents with sha256 " in out
        assert path.read_bytes() == before
        assert ScoreTable.load(finished_run / "scores" / "retrack-0.parquet").table == scores.table
    else:
        assert code == 2
        assert WHOLE.fullmatch(err), err
        assert str(path) in err
