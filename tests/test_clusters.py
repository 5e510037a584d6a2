"""Every command of docs/clusters.md is parsed by the program that it is for."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click import UsageError
from ray.scripts.scripts import cli as ray_cli
from torch.distributed.run import get_args_parser

from guda_lightning.cli.commands import Stage, find
from guda_lightning.cli.configs import located
from guda_lightning.cli.stage import parse as parse_stage
from guda_lightning.errors import ConfigError

PAGE = Path(__file__).parents[1] / "docs" / "clusters.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
SCRIPTS = [text for kind, text in BLOCKS if kind == "bash"]
CONSOLE = [line for kind, text in BLOCKS if kind == "console" for line in text.splitlines()]
DIRECTIVES = {  # of sbatch, and what they take
    "array": r"\d+-\d+",
    "cpus-per-task": r"\d+",
    "gpus-per-node": r"\d+",
    "job-name": r"[\w-]+",
    "nodes": r"\d+",
    "ntasks-per-node": r"\d+",
    "time": r"\d\d:\d\d:\d\d",
}


def parse(words: list[str]) -> None:
    """Parse a command, and the command that it starts, and so on."""
    program, arguments = words[0], words[1:]
    if program == "guda":
        stage = find(arguments[0])
        assert isinstance(stage, Stage)
        parse_stage(stage, located(arguments[1:]))
    elif program == "env":
        assert re.fullmatch("--chdir=/.+|--unset=SLURM_STEP_NUM_TASKS", arguments[0])
        parse(arguments[1:])
    elif program == "srun":
        parse(arguments)
    elif program == "torchrun":
        started = get_args_parser().parse_args(arguments)
        assert (started.module, started.training_script) == (True, "guda_lightning")
        trainer = dict(zip(started.training_script_args, started.training_script_args[1:], strict=False))
        assert trainer.get("--trainer.num_nodes", "1") == started.nnodes.partition(":")[0]
        assert trainer["--trainer.devices"] == started.nproc_per_node
        parse(["guda", *started.training_script_args])
    else:
        assert program == "ray", words
        command: Any = ray_cli
        while hasattr(command, "commands"):  # ray job submit
            command = command.commands[arguments[0]]
            arguments = arguments[1:]
        given = command.make_context(command.name, arguments).params
        if command.name != "start":
            parse(list(given.get("entrypoint") or given["ray_args_and_entrypoint"]))


@pytest.mark.parametrize("line", CONSOLE)
def test_command_lines(line: str) -> None:
    assert line.startswith("$ ")
    parse(shlex.split(line.removeprefix("$ ")))


@pytest.mark.parametrize("number", range(len(SCRIPTS)))
def test_slurm_scripts(number: int) -> None:
    script = SCRIPTS[number]
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    first, *lines = script.splitlines()
    assert first == "#!/bin/bash"
    directives = dict(
        line.removeprefix("#SBATCH --").split("=", 1) for line in lines if line.startswith("#SBATCH ")
    )
    for name, value in directives.items():
        assert re.fullmatch(DIRECTIVES[name], value), name
    (command,) = [line for line in lines if line.startswith("srun ")]
    words = shlex.split(command.replace("$SLURM_ARRAY_TASK_ID", "3").replace("$head", "node-1"))
    parse(words)
    if words[1] == "guda":  # Lightning compares these
        devices = words[words.index("--trainer.devices") + 1] if "--trainer.devices" in words else "1"
        nodes = words[words.index("--trainer.num_nodes") + 1] if "--trainer.num_nodes" in words else "1"
        assert (directives["ntasks-per-node"], directives["nodes"]) == (devices, nodes)
        assert directives["gpus-per-node"] == devices
    else:
        assert words[words.index("--min-nodes") + 1] == directives["nodes"]
        assert directives["ntasks-per-node"] == "1"


def test_what_is_wrong_is_found() -> None:
    for line, error in (
        ("guda unlearn -c digits.yaml --spread.init_args.cuont 2", ConfigError),
        ("ray start --hed", UsageError),
        ("ray symmetric-run --address a:1 -- guda unlearn -c digits.yaml --stps 3", ConfigError),
        ("torchrun --nodes 2 -m guda_lightning fit", SystemExit),
        ("sbatch x.sh", AssertionError),
    ):
        with pytest.raises(error):
            parse(shlex.split(line))


def test_every_kind_of_command_is_there() -> None:
    programs = [line.split()[1] for line in CONSOLE]
    assert set(programs) == {"guda", "ray", "torchrun"}
    assert len(SCRIPTS) == 3
