"""The command line: what answers at once, what is refused, and how a newcomer is received."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import guda_lightning
from guda_lightning.cli.commands import COMMANDS, stages_of_run
from guda_lightning.cli.configs import shipped
from guda_lightning.cli.main import main
from toys import message

CONF = Path(__file__).parents[1] / "conf"
DIGITS = str(CONF / "digits.yaml")
COMMANDS_PAGE = Path(__file__).parents[2] / "docs" / "commands.md"
NAMES = [
    *("run", "fit", "sample", "guide", "unlearn", "retrain", "ensemble", "attribute", "placebo", "property"),
    *("balance", "groups", "report", "app", "evaluate", "curate", "validate", "dashboard", "runs", "doctor"),
    *("manifest", "verify", "replay", "configs", "completion"),
]
LIGHT = [
    *("run", "report", "app", "evaluate", "curate", "dashboard", "runs", "doctor", "configs", "completion"),
    *("manifest", "verify", "replay"),
]
HEAVY = {"torch", "lightning", "diffusers", "numpy", "wandb", "jsonargparse"}


def test_what_explains_imports_nothing_heavy() -> None:
    script = f"""
import sys
from guda_lightning.cli.main import main
for command in {LIGHT}:
    assert main([command, "--help"]) == 0
for arguments in [[], ["--help"], ["-h"], ["help"], ["--version"], ["configs"], ["completion", "bash"]]:
    assert main(arguments) == 0
print(sorted({HEAVY!r} & sys.modules.keys()), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "[]\n")
    usages = re.findall(r"^usage: guda (\w+) ", done.stdout, re.MULTILINE)
    assert usages == LIGHT


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"guda {guda_lightning.__version__}\n"


def test_the_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    commands = re.findall(r"^  guda (\w+) ", out, re.MULTILINE)
    assert commands == NAMES == [command.name for command in COMMANDS]
    assert [stage.name for stage in stages_of_run()] == ["fit", "sample", "guide", "unlearn", "attribute"]
    for command in COMMANDS:
        assert command.summary[1:] in out and not command.summary.endswith(".")
    assert max(map(len, out.splitlines())) <= 110


def test_the_documentation_lists_every_command() -> None:
    text = COMMANDS_PAGE.read_text("utf-8").replace(r"\|", "¦")
    rows = re.findall(r"^\| `guda (\w+) (.+?)` \| (.+?) \|$", text, re.MULTILINE)
    assert rows == [
        (command.name, command.example.replace("|", "¦"), command.summary) for command in COMMANDS
    ]


@pytest.mark.parametrize(
    ("name", "fix"), [("unlern", "did you mean `guda unlearn`?"), ("zzz", "`guda --help` explains them")]
)
def test_an_unknown_command_is_refused(name: str, fix: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name]) == 2
    assert capsys.readouterr().err == (
        f"error: guda has no command {name!r}\n"
        f"  found:    {name}\n"
        f"  expected: {', '.join(NAMES)}\n"
        f"  fix:      {fix}\n"
    )


def headings(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.endswith(":") and not line.startswith(" ")]


def test_the_help_of_a_stage_begins_with_its_own_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["unlearn", "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "usage: guda unlearn -c FILE [-c FILE ...] [--OPTION VALUE ...]\n\n"
        "Make the full model forget each group: its counterfactuals.\n\n"
        "options of this stage:\n"
    )
    assert headings(out) == [
        "options of this stage:",
        "options of every stage:",
        "model:",
        "data:",
        "model that is no DiffusionModule:",
        "arguments of lightning.Trainer, which Lightning's documentation explains:",
    ]
    own = out[out.index("options of this stage:") : out.index("options of every stage:")]
    assert re.findall(r"^  --(\w+)[ ,]", own, re.MULTILINE) == [
        "objective",
        "steps",
        "groups",
        "full",
        "optimizer",
        "lr_scheduler",
        "seed",
        "lora",
        "until",
        "spread",
    ]
    # All of Lightning's options are named, and none of them is explained.
    flags = re.findall(r"--trainer\.\w+", out[out.index("arguments of lightning.Trainer") :])
    assert {"--trainer.max_steps", "--trainer.precision", "--trainer.callbacks"} <= set(flags)
    assert len(flags) == len(set(flags)) > 30
    assert "Number of GPU nodes" not in out
    assert "default_root_dir" not in out  # --run is what sets it


@pytest.mark.parametrize(
    ("stage", "options"),
    [
        (
            "sample",
            ["num", "steps", "seed", "full", "without", "operator", "counterfactual_seed", "hparams"],
        ),
        ("attribute", ["queries", "operator", "scoring", "weighting", "groups", "seed", "hparams", "resize"]),
        (
            "placebo",
            ["partitions", "attributor", "objective", "steps", "scoring", "level", "seed", "queries"],
        ),
        ("validate", ["verbose"]),
    ],
)
def test_every_stage_describes_its_options(
    stage: str, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([stage, "--help"]) == 0
    out = capsys.readouterr().out
    own = out[out.index("options of this stage:") : out.index("options of every stage:")]
    for option in options:
        assert re.search(rf"^  --{option}[ ,]", own, re.MULTILINE), option


def test_fit_has_no_options_but_those_of_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--help"]) == 0
    out = capsys.readouterr().out
    assert headings(out)[0] == "options of every stage:"
    assert "  --run RUN             Run folder: everything is read and written there." in out


def test_the_shipped_files_are_listed_and_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert {"digits.yaml", "unlearn/retrack.yaml", "callbacks/elbo_attribution.yaml"} <= set(listed)
    assert main(["configs", "--copy", str(tmp_path / "mine")]) == 0
    copied = capsys.readouterr().out.splitlines()
    assert copied == [str(tmp_path / "mine" / name) for name in listed]
    for name in listed:
        assert yaml.safe_load((tmp_path / "mine" / name).read_text())
    assert main(["configs", "audit.yaml", "--copy", str(tmp_path / "one")]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/one/audit.yaml\n"
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["audit.yaml"]
    assert main(["configs", "--copy", str(tmp_path / "mine")]) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path}/mine/{listed[0]} exists\n"
        "  found:    a file that you may have edited\n"
        "  expected: a folder without it\n"
        "  fix:      choose another folder for --copy\n"
    )


def test_a_refused_copy_copies_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edited = tmp_path / "unlearn" / "retrack.yaml"
    edited.parent.mkdir()
    edited.write_text("steps: 7\n")
    assert main(["configs", "--copy", str(tmp_path)]) == 2
    assert capsys.readouterr().out == ""
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [edited]
    assert edited.read_text() == "steps: 7\n"


def test_an_option_that_does_not_exist_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "-c", DIGITS, "--run", f"{tmp_path}/run", "--trainer.max_stepz", "3"]) == 2
    assert capsys.readouterr().err == (
        "error: guda fit has no option --trainer.max_stepz\n"
        "  found:    --trainer.max_stepz 3\n"
        "  expected: --trainer.max_steps\n"
        "  fix:      use --trainer.max_steps\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", [["-c", "nosuch.yaml"], ["--config=nosuch.yaml"]])
def test_a_configuration_that_does_not_exist_is_named(
    option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *option]) == 2
    err = capsys.readouterr().err
    assert re.fullmatch(
        r"error: the configuration nosuch\.yaml does not exist\n"
        r"  found:    no such file, here or among \d+ that come with guda\n"
        r"  expected: a YAML file\n"
        r"  fix:      `guda configs` lists those that come with guda\n",
        err,
    )


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("attribute/tracinn.yaml", "attribute/tracin.yaml"), ("das.yaml", "attribute/das.yaml")],
)
def test_a_configuration_that_nearly_exists_is_named_with_the_one_that_does(
    wrong: str, near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["attribute", "-c", wrong]) == 2
    assert capsys.readouterr().err.endswith(f"lists those that come with guda, {near} among them\n")


@pytest.mark.parametrize(
    ("arguments", "problem", "found", "expected", "fix"),
    [
        (
            ["report"],
            "guda report lacks run",
            "no run",
            "guda report RUN",
            "`guda report --help` explains the options",
        ),
        (
            ["evaluate", "RUN", "--resamples", "many"],
            "--resamples of guda evaluate has a wrong value",
            "invalid int value: 'many'",
            "guda evaluate RUN|--yardstick digits [--calibrate 3,7]",
            "`guda evaluate --help` explains the options",
        ),
        (
            ["evaluate", "RUN", "--per", "samples"],
            "--per of guda evaluate has a wrong value",
            "samples",
            "group or sample",
            "did you mean sample?",
        ),
        (
            ["curate", "RUN", "--verfy"],
            "guda curate has no option --verfy",
            "--verfy",
            "--verify",
            "use --verify",
        ),
        (
            ["completion", "bash", "extra"],
            "guda completion has no use for extra",
            "extra",
            "guda completion bash|zsh",
            "`guda completion --help` explains the options",
        ),
        (
            ["configs", "audit.yml"],
            "the configuration audit.yml does not exist",
            f"no such file, here or among {len(shipped())} that come with guda",
            "a YAML file",
            "`guda configs` lists those that come with guda, audit.yaml among them",
        ),
    ],
)
def test_what_is_missing_or_misspelt_is_named(
    arguments: list[str],
    problem: str,
    found: str,
    expected: str,
    fix: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(arguments) == 2
    refused = capsys.readouterr().err.removeprefix("error: ").removesuffix("\n")
    assert re.match(message(problem, found, expected, fix), refused), refused


def test_run_refuses_what_is_wrong_with_a_later_stage_before_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("scorin:\n  strata: 3\n")
    run = tmp_path / "run"
    shared = ["run", "-c", DIGITS, "--run", str(run)]
    assert main([*shared, "--attribute", str(wrong)]) == 2
    assert capsys.readouterr().err.startswith("error: guda attribute has no option scorin.strata\n")
    assert main([*shared, "--unlearn", "nosuch.yaml"]) == 2
    assert capsys.readouterr().err.startswith("error: the configuration nosuch.yaml does not exist\n")
    assert main([*shared, "--queries", f"{tmp_path}/me.png"]) == 2
    assert capsys.readouterr().err == (
        "error: there are no queries\n"
        f"  found:    nothing at {tmp_path}/me.png\n"
        "  expected: an image file or a folder of images\n"
        "  fix:      correct the path\n"
    )
    assert main([*shared, "--trainer.max_stepz", "3"]) == 2
    assert capsys.readouterr().err.startswith("error: guda fit has no option --trainer.max_stepz\n")
    assert not run.exists()


@pytest.mark.parametrize("command", ["--help", "configs"])
def test_a_reader_that_is_gone_ends_a_command_quietly(command: str) -> None:
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, "-m", "guda_lightning", command]
    done = subprocess.run(words, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "guda_lightning", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"guda {guda_lightning.__version__}\n"
