"""Counterfactuals made by several processes of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Thread

import psutil
import pytest
from spread_place import Place, wait_until

from guda_lightning.cli.main import AFTER_INTERRUPT, INTERRUPTED, main
from guda_lightning.errors import ConfigError
from guda_lightning.spread import Ended, Processes, Task
from toys import message

WORKER = "guda_lightning.spread.worker"
SPREAD = ("-c", "spread/processes.yaml", "--spread.init_args.count", "2")


@pytest.mark.torture
def test_ctrl_c_stops_all_and_the_same_command_goes_on(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = place.alone("1,2,3", monkeypatch)
    monkeypatch.chdir(place.folder)
    monkeypatch.syspath_prepend(place.folder)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    arguments = place.unlearn("1,2,3", "1", *SPREAD)
    children: list[psutil.Process] = []

    def interrupt() -> None:
        # 2 and 3 can only come to their ends while 1 waits if two run at the same time.
        wait_until(lambda: ("1", "5") in place.steps() and {"2", "3"} == place.records().keys())
        tasks = [c for c in psutil.Process().children(recursive=True) if WORKER in c.cmdline()]
        children.extend(tasks)
        os.kill(os.getpid(), signal.SIGINT)

    capsys.readouterr()
    thread = Thread(target=interrupt)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it
    thread.start()
    assert main(arguments) == INTERRUPTED
    thread.join()
    signal.signal(signal.SIGINT, handler)
    out, err = capsys.readouterr()
    lines = [line.split(",")[0] for line in out.splitlines()]
    assert lines[1] == "unlearn: 2 at a time"
    assert err == f"\n{AFTER_INTERRUPT}\n"
    assert children and psutil.wait_procs(children, timeout=10)[1] == []
    assert place.records().keys() == {"2", "3"}
    worker = {group: {pid for name, _, pid in place.diary() if name == group} for group in "123"}
    assert worker["2"] == worker["3"] != worker["1"] and len(worker["2"]) == 1  # one start for both

    place.go()
    assert main(arguments) == 0
    lines = [line.split(",")[0] for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "unlearn: 2 complete"
    assert lines[2:] == ["unlearn: 1 at a time", "unlearn: 1 done (1 of 1)"]
    (log,) = (place.run / "spread").glob("*-1-*.log")
    assert log.read_text().count("going on from run/checkpoints/zero_target-1-") == 1
    assert list((place.run / "spread").glob("*.progress*")) == []
    for group in "23":
        whole = [(group, str(step)) for step in range(1, 13)]
        assert [line for line in place.steps() if line[0] == group] == [*whole, (group, "end")]
    again = [*range(1, 6), *range(4, 13), "end"]  # from the end of the first epoch
    assert [line for line in place.steps() if line[0] == "1"] == [("1", str(step)) for step in again]

    assert main(arguments) == 0
    assert capsys.readouterr().out == "unlearn: 3 complete, skipped: 1, 2, 3\n"
    records = place.records()
    assert {name: record.files for name, record in records.items()} == {
        name: record.files for name, record in alone.items()
    }  # the same weights, bit for bit
    assert all(records[name].network_evaluations == alone[name].network_evaluations for name in records)


def test_tasks_end_with_a_driver_that_is_killed(place: Place) -> None:
    # The wait of 60 s in the diary would keep the task alive.
    arguments = place.unlearn("1", "1", *SPREAD[:-1], "1")
    stage, *options = arguments[: arguments.index("--run") + 2]
    script = (
        "from pathlib import Path\n"
        "from guda_lightning.spread import Processes, Task\n"
        f"task = Task('1', {stage!r}, Path({options[1]!r}), {tuple(options[2:])!r}, Path('log').absolute(), "
        "Path.cwd())\n"
        "for _ in Processes(1).run([task]): pass\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], cwd=place.folder) as driver:
        process = psutil.Process(driver.pid)
        wait_until(lambda: [child for child in process.children() if WORKER in child.cmdline()])
        children = process.children()
        driver.kill()
    assert psutil.wait_procs(children, timeout=30)[1] == []
    assert place.diary() == []


def commands(folder: Path, *stages: str) -> list[Task]:
    """Tasks that take no time: what guda says of its version, or of a stage that it does not have."""
    return [
        Task(stage, stage, Path("unread.yaml"), (), folder / f"{number}.log", folder)
        for number, stage in enumerate(stages)
    ]


def test_what_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    tasks = commands(tmp_path, "nope", "--version", "--version", "never", "--version")
    ended = [each for look in Processes(2).run(tasks) for each in look]
    problems = {0: "exit code 2", 1: None, 2: None, 3: "exit code 2", 4: None}
    assert sorted(ended, key=lambda each: tasks.index(each.task)) == [
        Ended(task, problems[number]) for number, task in enumerate(tasks)
    ]
    assert tasks[0].log.read_text().startswith("error: guda has no command 'nope'\n")
    assert tasks[4].log.read_text().startswith("guda ")


def test_a_task_leaves_its_worker_as_it_was(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from guda_lightning.spread.task import Task, run_here\n"
        "before = dict(os.environ), list(sys.path), list(sys.argv)\n"
        "for line in Path('tasks').read_text().splitlines():\n"
        "    task = Task.from_json(line)\n"
        "    outcome = run_here(task)\n"
        "    assert before == (dict(os.environ), sys.path, sys.argv)\n"
        "    print(*outcome, 'torch' in sys.modules, flush=True)\n"
    )
    tasks = commands(tmp_path, "--version", "nope", "--version")
    (tmp_path / "tasks").write_text("".join(f"{task.to_json()}\n" for task in tasks))
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    logs = [task.log.read_text().splitlines() for task in tasks]
    assert [lines[-1] for lines in logs] == ["0 True False", "2 False False", "0 True False"]
    assert [len(lines) for lines in (logs[0], logs[2])] == [2, 2]  # each its own output alone


def test_a_task_that_is_killed_is_a_failed_one(place: Place) -> None:
    arguments = place.unlearn("1", "1")
    task = Task("1", "unlearn", Path(arguments[2]), tuple(arguments[3:]), place.folder / "log", place.folder)
    looks = Processes(1).run([task])
    assert next(looks) == []
    (child,) = [c for c in psutil.Process().children() if WORKER in c.cmdline()]
    child.kill()
    assert [each for look in looks for each in look] == [Ended(task, "killed by SIGKILL")]


def test_no_process_at_a_time() -> None:
    expected = message(
        "spread.count is out of range",
        0,
        "at least one process at a time",
        "pass --spread.init_args.count 1 or more, or leave it out for one per GPU",
    )
    with pytest.raises(ConfigError, match=expected):
        Processes(0)


def test_without_a_gpu_somebody_has_to_say_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    expected = message(
        "spread.count is missing",
        "no CUDA device to run one process each",
        "a number of processes to share the CPU",
        "pass --spread.init_args.count 2",
    )
    spread = Processes()
    assert spread.devices is None
    with pytest.raises(ConfigError, match=expected):
        spread.room()
    assert Processes(3).room() == 3


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-8a")
    spread = Processes()
    assert (spread.room(), spread.devices) == (2, 1)
    started: list[str] = []

    class Started(subprocess.Popen[bytes]):
        def __init__(self, *arguments: object, env: dict[str, str], **options: object) -> None:
            started.append(env["CUDA_VISIBLE_DEVICES"])
            super().__init__(*arguments, env=env, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "Popen", Started)
    assert all(
        ended == [] or ended[0].problem is None
        for ended in spread.run(commands(tmp_path, *["--version"] * 2))
    )
    assert started == ["3", "GPU-8a"]
