"""The commands of docs/decisions_from_scores.md run, each section on a small run folder of its own."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

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
    "unlearn/retrack.yaml": CONF / "unlearn.yaml",
}
FEW = f"-c {CONF}/attribute.yaml --num 3 --steps 3 --least 0"  # hardly any image of the tiny network leads
NUMBERS: dict[str, str] = {
    "guide -c digits.yaml": f"guide -c digits.yaml -c {CONF}/guide.yaml",
    "balance -c digits.yaml --num 100": f"balance -c digits.yaml {FEW} --groups 3,7",
    "--operator finetune --groups 3,8 --num 100": f"{FEW} --operator finetune --groups 3,8",
    "--steps 400": "--steps 3",
}  # likewise, of options that say how much is done, such as "--num 100": "--num 4"


@pytest.mark.parametrize("title", [title for title, lines in CONSOLE.items() if lines])
def test_commands(title: str, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``RUN`` and ``runs/NAME`` stand for run folders; a file that the page shows in full is there."""
    monkeypatch.chdir(tmp_path)
    for name, text in re.findall(r"^```\w+\n# (\S+)\n(.*?)^```", SECTIONS[title], re.MULTILINE | re.DOTALL):
        Path(name).write_text(text)
    for line in CONSOLE[title]:
        for shown, small in NUMBERS.items():
            line = line.replace(shown, small)
        program, *words = shlex.split(line.removeprefix("$ "), comments=True)
        assert program == "guda", line
        arguments = [str(FILES.get(word, word)) for word in words]
        arguments = [str(finished_run) if word == "RUN" else word for word in arguments]
        if "-c" in arguments and "--run" not in arguments:
            arguments += ["--run", str(finished_run)]
        assert main(arguments) == 0, line
