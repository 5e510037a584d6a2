"""Options read from the source: those of the parser, refused and completed without torch."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from guda_lightning import compat
from guda_lightning.cli.candidates import candidates
from guda_lightning.cli.commands import COMMANDS, Stage, find
from guda_lightning.cli.inputs import Inputs
from guda_lightning.cli.lightning import StageCLI
from guda_lightning.cli.main import main
from guda_lightning.cli.options import heads, options_of, trainer_options
from guda_lightning.cli.refusals import refuse_early
from toys import message

CONF = Path(__file__).parents[1] / "conf"
DIGITS = str(CONF / "digits.yaml")
STAGES = [command for command in COMMANDS if isinstance(command, Stage)]


class Unparsed(StageCLI):
    """The parser of a stage alone."""

    def parse_arguments(self, parser: object, args: object) -> None:
        self.config = self.parser.get_defaults()

    def before_instantiate_classes(self) -> None:
        pass


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_the_source_names_the_options_of_the_parser(stage: Stage) -> None:
    flags = [name.removesuffix("+").split(".") for name in compat.option_names(Unparsed(stage, ()).parser)]
    assert {flag[0].removeprefix("--") for flag in flags} == heads(stage)
    assert {flag[1] for flag in flags if flag[0] == "--trainer" and len(flag) > 1} == trainer_options()
    for option in options_of(stage).values():
        below = {flag[1] for flag in flags if flag[0] == f"--{option.name}" and len(flag) > 1} - {"help"}
        assert below in (set(), {part.name for part in option.parts}), option
        assert all(one.help for one in (option, *option.parts)), option


def stage_of(name: str) -> Stage:
    found = find(name)
    assert isinstance(found, Stage)
    return found


@pytest.mark.parametrize(
    ("line", "problem", "found", "expected", "fix"),
    [
        (
            "fit digits.yaml",
            "guda fit takes options alone",
            "digits.yaml",
            "guda fit -c FILE [--OPTION VALUE ...]",
            "did you forget -c? guda fit -c digits.yaml",
        ),
        (
            "fit -c {digits} '' ' '",  # as of shell variables that are not set
            "guda fit takes options alone",
            "'' ' '",
            "guda fit -c FILE [--OPTION VALUE ...]",
            "`guda fit --help` explains them",
        ),
        (
            "fit --run x",
            "guda fit got no configuration",
            "guda fit --run x",
            "guda fit -c FILE [--OPTION VALUE ...]",
            "did you forget -c? `guda configs` lists what comes along, such as guda fit -c digits.yaml",
        ),
        (
            "unlearn -c {conf}/unlearn.yaml",
            "guda unlearn lacks model",
            "a configuration without it",
            "a section `model:`",
            "pass a configuration with -c, such as one that `guda configs` lists",
        ),
        (
            "guide -c {digits} --clasifier.steps 3",
            "guda guide has no option --clasifier.steps",
            "--clasifier.steps 3",
            "--classifier.steps",
            "use --classifier.steps",
        ),
        (
            "fit -c {digits} -c {conf}/unlearn.yaml",
            "guda fit has no option objective.class_path",
            "objective.class_path",
            "one that exists",
            "objective is an option of guda unlearn, attribute, placebo: leave it out here",
        ),
        (
            "sample -c {conf}/unlearn.yaml --model x --run x --steps 3 --objective x",
            "guda sample has no option --objective",
            "--objective x",
            "one that exists",
            "objective is an option of guda unlearn, attribute, placebo: leave it out here",
        ),
        (
            "unlearn --model x",
            "guda unlearn needs a run folder",
            "no run folder in the configuration",
            "a folder to read and write",
            "add `run: runs/mine` to the configuration, or pass --run runs/mine",
        ),
        (
            "unlearn --model x --run x",
            "guda unlearn needs the training data",
            "no data in the configuration",
            "a GroupDataModule, which knows the groups",
            "add the section `data`, as in digits.yaml of `guda configs`",
        ),
        (
            "attribute -c {digits} --zzz=3",
            "guda attribute has no option --zzz",
            "--zzz 3",
            "one that exists",
            "`guda attribute --help` explains the options",
        ),
        (
            "attribute -c {digits} -c {folder}/wrong.yaml",
            "guda attribute has no option scorin.strata",
            "scorin.strata",
            "scoring.strata",
            "use scoring.strata",
        ),
        (
            "fit -c {digits} -c {folder}/trainer.yaml",
            "trainer has no option max_stepz",
            "max_stepz",
            "max_steps",
            "use max_steps",
        ),
    ],
)
def test_what_no_stage_has_is_refused_with_what_is_near(
    line: str, problem: str, found: str, expected: str, fix: str, tmp_path: Path
) -> None:
    (tmp_path / "wrong.yaml").write_text("scorin:\n  strata: 3\n")
    (tmp_path / "trainer.yaml").write_text("trainer:\n  max_stepz: 3\n")
    stage, *arguments = shlex.split(line.format(conf=CONF, digits=DIGITS, folder=tmp_path))
    with pytest.raises(Exception, match=message(problem, found, expected, fix)):
        refuse_early(stage_of(stage), Inputs.of(stage, arguments))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--trainer.callbacks+", "a.B", "--trainer.logger.save_dir", "x", "--model.help"],
        ["--groups", "--zzz", "--print_config"],
        ["--objective.forget_weight", "2", "--lora.rank=8", "--lora", "null", "--trainer.max_epochs", "-1"],
        ["--conf", DIGITS, "--print_config=skip_null"],
    ],
)
def test_what_a_parser_may_take_is_left_to_it(arguments: list[str]) -> None:
    refuse_early(stage_of("unlearn"), Inputs.of("unlearn", ["-c", DIGITS, *arguments]))


def completed(line: str) -> list[str]:
    return candidates(line.split(" "))


def test_words_are_completed(finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished_run.parent)
    assert completed("un") == ["unlearn"]
    assert completed("unlearn -c unlearn/re") == ["unlearn/retrack.yaml", "unlearn/retrack_capped.yaml"]
    assert completed("fit --trainer.max_") == [
        f"--trainer.max_{name}" for name in ("epochs", "steps", "time")
    ]
    assert completed("guide --classifier.st") == ["--classifier.steps"]
    assert completed("guide --posterior c") == ["classifier"]
    assert completed("completion z") == ["zsh"]
    assert completed("configs au") == ["audit.yaml"]
    assert completed("report --sc") == ["--scores"]
    assert completed("zzz --sc") == []
    assert completed("report ti") == completed("attribute --run ti") == ["tiny"]
    assert completed("report tiny --scores ") == ["tiny/scores/retrack-0.parquet"]
    assert completed("attribute --run tiny --groups 3,1") == ["3,1"]
    assert completed("attribute --run tiny --operator ") == ["retrack"]
    (Path("mine.yaml")).write_text("run: tiny\n")
    assert completed("attribute -c mine.yaml --operator re") == ["retrack"]


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_asks_guda(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    if shell == "zsh":
        first, _, script = script.partition("\n")
        assert first == "autoload -U +X bashcompinit && bashcompinit"
    (tmp_path / "my file.yaml").touch()
    words = '"${COMPREPLY[@]}"'
    for typed, expected in (("unl", "unlearn\n"), ("fit -c my", "my file.yaml\n")):
        line = f"COMP_WORDS=(guda {typed}); COMP_CWORD={len(typed.split())}; _guda; printf '%s\\n' {words}"
        done = subprocess.run(
            ["bash", "-c", f"{script}\n{line}"], capture_output=True, text=True, cwd=tmp_path
        )
        assert (done.stdout, done.stderr) == (expected, "")


def test_completing_imports_nothing_heavy() -> None:
    script = """
import sys
from guda_lightning.cli.main import main
main(["completion", "words", "--", "unlearn", "--trainer.max_s"])
print({"torch", "lightning", "numpy", "jsonargparse"} & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"--trainer.max_steps\nset\(\)\n", done.stdout)
