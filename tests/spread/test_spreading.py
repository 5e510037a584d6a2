"""What a stage makes of a spread: refusals before work, and one error for all that is missing in the end."""

from __future__ import annotations

import re
import shutil
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import ClassVar

import pytest
from spread_place import CONF

from guda_lightning import CounterfactualStore, GudaTrainer
from guda_lightning.cli.main import main
from guda_lightning.counterfactuals import CounterfactualKey
from guda_lightning.errors import ConfigError, StoreError
from guda_lightning.spread import Ended, Executor, Processes, RayCluster, Task
from guda_lightning.spread.progress import Progress, read_progress
from guda_lightning.stages import spreading
from guda_lightning.stages.spreading import Spreading
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.written import files_below, listening
from toys import message, shades

KEYS = [CounterfactualKey("retrack", (group,), 0, "0" * 64) for group in ("a/b", "3")]


def trainer(folder: Path) -> GudaTrainer:
    return GudaTrainer(default_root_dir=folder, accelerator="cpu", devices=1, logger=False)


def test_all_that_failed_is_named_with_its_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunFolder(tmp_path)
    logs = [run.spread / f"{key.folder_name}.log" for key in KEYS]
    with pytest.raises(StoreError) as caught:
        Spreading(Processes(1), "steps: 3\n", run).make("nope", KEYS)
    tail = logs[0].read_text().splitlines()
    assert tail[0] == "error: guda has no command 'nope'" and len(tail) <= 5
    expected = message(
        "nope: 2 of 2 counterfactuals are missing",
        "\n".join(
            [f"a/b: exit code 2, {logs[0]}; 3: exit code 2, {logs[1]}", *(f"    {line}" for line in tail)]
        ),
        f"all of them in {run.store}",
        "mend what the logs say, and rerun the same command: what is complete is kept",
    )
    assert re.match(expected, str(caught.value))
    assert capsys.readouterr().out.splitlines() == [
        f"nope: 1 at a time, logs in {run.spread}",
        "nope: a/b failed: exit code 2",
        "nope: 3 failed: exit code 2",
    ]
    (config,) = run.spread.glob("*.yaml")
    assert config.read_text() == "steps: 3\n"
    assert all(log.is_file() for log in logs) and len(list(run.spread.iterdir())) == 3


def test_a_task_that_stores_nothing_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spreading, "_HIDDEN_SECONDS", 0)
    run = RunFolder(tmp_path)
    found = re.escape(f"3 (seed 0): nothing at {run.store / KEYS[1].folder_name}, ")
    with pytest.raises(StoreError, match=found):
        Spreading(Processes(1), "", run).make("--version", KEYS[1:], seeds=True)


@pytest.mark.parametrize("stage", ["unlearn", "retrain"])
def test_python_has_no_command_to_spread(stage: str, tmp_path: Path) -> None:
    expected = message(
        "spread needs the command line",
        "a stage called from Python, without its configuration",
        "`guda unlearn` or `guda retrain`",
        "use the command line with --spread, or leave out the spread",
    )
    with pytest.raises(ConfigError, match=expected):
        getattr(trainer(tmp_path), stage)(None, shades(), spread=Processes(1))


def test_one_of_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = trainer(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    expected = message(
        "spread starts its processes itself",
        "one of 2 processes of the same command",
        "one process",
        "start guda without torchrun, or leave out the spread",
    )
    with pytest.raises(ConfigError, match=expected):
        Spreading.of(driver, Processes(1), "")


def test_other_devices_than_the_trainers(tmp_path: Path) -> None:
    driver, half, two = trainer(tmp_path), RayCluster(num_gpus=0.5), RayCluster(num_gpus=2)
    assert Spreading.of(driver, half, "") == Spreading(half, "", RunFolder(tmp_path))
    expected = message(
        "tasks see other devices than the trainer is configured for",
        "a trainer of 1 devices, tasks of 2",
        "the same number",
        "pass --trainer.devices 2 --trainer.num_nodes 1, or change the spread",
    )
    with pytest.raises(ConfigError, match=expected):
        Spreading.of(driver, two, "")


def test_no_spread(tmp_path: Path) -> None:
    assert Spreading.of(trainer(tmp_path), None, "") is None


class Elsewhere(Executor):
    """Tasks in other processes: what they make is suddenly there."""

    devices = None

    def __init__(self, made: Path, store: Path) -> None:
        self.made, self.store = made, store

    def room(self) -> int:
        return 1

    def run(self, tasks: Sequence[Task]) -> Generator[list[Ended], None, None]:
        shutil.copytree(self.made, self.store, dirs_exist_ok=True)
        yield [Ended(task, None) for task in tasks]


def test_what_its_tasks_made_is_what_the_command_wrote(finished_run: Path) -> None:
    run = RunFolder(finished_run)
    keys = [record.key for record in CounterfactualStore(run.store).records()]
    made = run.store.rename(run.root.with_name("made"))
    of_another = made / "retrack-of-another"
    of_another.mkdir()
    (of_another / "record.json").write_text("of a command that works there, too")
    with listening() as heard:
        Spreading(Elsewhere(made, run.store), "", run).make("unlearn", keys[:2])
    own = [file for file in files_below(run.root, heard) if not file.startswith("spread/")]
    assert own == sorted(
        f"store/{key.folder_name}/{name}" for key in keys[:2] for name in ("model.safetensors", "record.json")
    )


class Here(Executor):
    """Runs tasks one after the other in this process, by their arguments alone."""

    ran: ClassVar[list[str]] = []
    devices = None

    def room(self) -> int:
        return 1

    def run(self, tasks: Sequence[Task]) -> Generator[list[Ended], None, None]:
        for task in tasks:
            self.ran.append(task.name)
            yield [Ended(task, f"exit code {code}" if (code := main(task.arguments)) else None)]


def test_tasks_of_retraining_have_groups_and_seeds(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Tasks have the stage's configuration: another one would make other counterfactuals.
    shared = ["retrain", "-c", f"{CONF}/digits.yaml", "--groups", "7+1", "--seeds", "0,1"]
    alone = Path(shutil.copytree(finished_run, tmp_path / "alone"))
    assert main([*shared[:-1], "1", "--run", str(alone)]) == 0
    capsys.readouterr()
    monkeypatch.setattr(Here, "ran", [])
    spread = [*shared, "--run", str(finished_run), "--spread", f"{__name__}.Here"]
    assert main(spread) == 0
    names = ["1+7 (seed 0)", "1+7 (seed 1)"]
    assert Here.ran == names
    said = [line.split(",")[0] for line in capsys.readouterr().out.splitlines() if ") done (" in line]
    assert said[1::2] == [f"retrain: {name} done ({number} of 2)" for number, name in enumerate(names, 1)]
    records = [
        [r for r in CounterfactualStore(run / "store").records() if (r.operator, r.seed) == ("retrain", 1)]
        for run in (alone, finished_run)
    ]
    assert [record.key for record in records[0]] == [record.key for record in records[1]]
    assert [record.files for record in records[0]] == [record.files for record in records[1]]  # bit for bit
    assert main(spread) == 0
    assert capsys.readouterr().out == f"retrain: 2 complete, skipped: {', '.join(names)}\n"
    assert Here.ran == names


@pytest.mark.parametrize(("seconds", "steps"), [(0, 4), (1e9, 0)])
def test_a_task_says_how_far_it_is(
    seconds: float, steps: int, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guda_lightning.callbacks.progress._SECONDS", seconds)
    monkeypatch.setenv("GUDA_PROGRESS", str(tmp_path / "3.progress"))
    unlearn = ["unlearn", "-c", f"{CONF}/digits.yaml", "-c", f"{CONF}/zero_target.yaml"]
    assert main([*unlearn, "--run", str(finished_run), "--groups", "3"]) == 0
    assert read_progress(tmp_path / "3.progress") == Progress(step=steps, total=4)
    assert [path.name for path in tmp_path.glob("3.*")] == ["3.progress"]


def test_a_task_is_none_of_the_processes_that_started_it(tmp_path: Path) -> None:
    task = Task("3", "unlearn", tmp_path, (), tmp_path / "3.log", tmp_path)
    inherited = {"SLURM_PROCID": "1", "RANK": "1", "MASTER_PORT": "7", "WORLD_SIZE": "2", "HOME": "/home/me"}
    assert task.environment(inherited) == {"HOME": "/home/me", "GUDA_PROGRESS": str(tmp_path / "3.progress")}
