"""The commands of docs/decisions_from_scores.md run, each section on a small run folder of its own."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from guda_lightning.cli.main import main

PAGE = Path(__file__).parents[1] / "docs" / "decisions_from_scores.md"
CONF = Path(__file__).parent / "conf"
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL))
CONSOLE = {
    title: [
        line
        for block in re.findall(r"^```console\n(.*?)^```", text, re.M | re.S)
        for line in block.splitlines()
    ]
    for title, text in SECTIONS.items()
}
FILES = {  # what the page shows, by what is small
    "digits.yaml": CONF / "digits.yaml",
    "attribute/elbo.yaml": CONF / "attribute.yaml",
    "attribute/ensemble.yaml": CONF / "ensemble.yaml",
    "unlearn/retrack.yaml": CONF / "unlearn.yaml",
}
FEW = f"-c {CONF}/attribute.yaml --num 3 --steps 3 --least 0"  # hardly any image of the tiny network leads
NUMBERS = {  # likewise, of options that say how much is done, in this order
    "balance -c digits.yaml --num 100": f"balance -c digits.yaml {FEW} --groups 3,7",
    "--operator finetune --groups 3,8 --num 100": f"{FEW} --operator finetune --groups 3,8",
    "--steps 400": "--steps 3",
    "--num 100": "--num 4 --steps 4",
    "--seed_everything 1": "--seed_everything 1 --model.init_args.seed 1",  # of the same samples
    "--seed_everything 2": "--seed_everything 2 --model.init_args.seed 2",
    "guda guide -c digits.yaml": f"guda guide -c digits.yaml -c {CONF}/guide.yaml",
    "guda sample -c digits.yaml": f"guda sample -c digits.yaml -c {CONF}/sample.yaml",
    **{
        f"guda {stage} -c digits.yaml": f"guda {stage} -c digits.yaml --trainer.limit_val_batches 0"
        for stage in ("fit", "unlearn", "ensemble")
    },
}
HELD_OUT = ("3/0", "3/1", "7/0", "7/1")  # images in the folder held-out, where a section has one
MADE = {  # what the page shows the beginning of
    "parity.csv": "id,group\n"
    + "".join(f"{row},{'odd' if digit % 2 else 'even'}\n" for row, digit in enumerate(load_digits().target)),
}


@pytest.mark.parametrize("title", [title for title, lines in CONSOLE.items() if lines])
def test_commands(title: str, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``RUN`` and ``runs/NAME`` stand for run folders; a file that the page shows in full is there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # the program itself looks for modules where it is started
    for name, text in re.findall(r"^```\w+\n# (\S+)\n(.*?)^```", SECTIONS[title], re.MULTILINE | re.DOTALL):
        Path(name).write_text(text)
    if "held-out" in SECTIONS[title]:
        for row, name in enumerate(HELD_OUT):
            path = Path("held-out", f"{name}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.random.default_rng(row).integers(0, 255, (8, 8), np.uint8)).save(path)
    for name, text in MADE.items():
        Path(name).write_text(text)
    for line in CONSOLE[title]:
        for shown, small in NUMBERS.items():
            line = line.replace(shown, small)
        program, *words = shlex.split(line.removeprefix("$ "), comments=True)
        assert program == "guda", line
        arguments = [str(FILES.get(word, word)) for word in words]
        arguments = [re.sub("^RUN(?=/|$)", str(finished_run), word) for word in arguments]
        if "-c" in arguments and "--run" not in arguments:
            arguments += ["--run", str(finished_run)]
        assert main(arguments) == 0, line
