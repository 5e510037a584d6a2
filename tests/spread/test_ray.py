"""Counterfactuals made on a real Ray cluster: two workers on this machine, one of which is killed."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from spread_place import Place, wait_until

from guda_lightning.errors import ConfigError, MissingExtraError
from guda_lightning.spread import RayCluster
from toys import message

SPREAD = ("-c", "spread/ray.yaml", "--spread.init_args.num_gpus", "0", "--spread.init_args.num_cpus", "1")
REFUSED = f"""\
refused: no node of the Ray cluster has room for a task
  found:    CPU 2, GPU 0, fast 0
  expected: a node with CPU 2, GPU 1, fast 0.5
  fix:      start such a node first, or ask for less in spread.init_args
refused: the node {socket.gethostname()} does not see the run folder
  found:    nothing at /nowhere/run/spread/unlearn.yaml
  expected: the files of the machine that guda was started on, under the same path
  fix:      keep the run folder, and the folder to start guda in, on a disk that all nodes share
"""


@pytest.mark.torture
def test_a_killed_worker_loses_nothing_and_nothing_is_done_twice(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(Path(__file__).with_name("ray_driver.py"), place.folder)
    arguments = place.unlearn("1,2,3", "1", *SPREAD)
    environ = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    with subprocess.Popen(
        [sys.executable, "ray_driver.py", *arguments],
        cwd=place.folder,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as driver:
        # In the second epoch of 1, when the other worker has made 2 and 3.
        done = {("1", "5"), ("2", "end"), ("3", "end")}
        wait_until(lambda: done <= set(place.steps()) or driver.poll() is not None)
        (killed,) = {pid for group, _, pid in place.diary() if group == "1"}
        psutil.Process(killed).kill()
        place.go()
        out, _ = driver.communicate(timeout=200)
    assert driver.returncode == 0, out

    assert out.startswith(REFUSED)
    # Ray says itself that it has lost a worker.
    lines = [line for line in out.removeprefix(REFUSED).splitlines() if "(raylet)" not in line]
    assert lines[0].startswith("unlearn: 3 groups x 12 steps (zero_target)")
    assert lines[1] == "unlearn: 2 at a time, logs in run/spread"
    done = [re.sub(r", .*", "", line) for line in lines[2:]]
    assert [line[-8:] for line in done] == ["(1 of 3)", "(2 of 3)", "(3 of 3)"]
    assert {line[: -len(" (1 of 3)")] for line in done} == {f"unlearn: {group} done" for group in "123"}

    # Each step once, but for the epoch that the killed worker had not finished.
    for group in ("2", "3"):
        mine = [(what, pid) for name, what, pid in place.diary() if name == group]
        assert [what for what, _ in mine] == [*map(str, range(1, 13)), "end"]
    assert len({pid for group, _, pid in place.diary() if group in "23"}) == 1  # one start for both
    mine = [(what, pid) for name, what, pid in place.diary() if name == "1"]
    assert [what for what, pid in mine if pid == killed] == [*map(str, range(1, 6))]
    assert [what for what, pid in mine if pid != killed] == [*map(str, range(4, 13)), "end"]
    logs = {path.name.split("-")[1]: path.read_text() for path in (place.run / "spread").glob("*.log")}
    assert {group: log.count("going on from ") for group, log in logs.items()} == {"1": 1, "2": 0, "3": 0}
    assert len(list((place.run / "spread").iterdir())) == 4  # three logs and the configuration
    assert not list((place.run / "checkpoints").iterdir())

    alone, records = place.alone("1,2,3", monkeypatch), place.records()
    for name, record in alone.items():
        assert records[name].key == record.key
        assert records[name].files == record.files  # the same weights, bit for bit
        assert records[name].network_evaluations == record.network_evaluations


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    expected = message(
        "ray is not installed",
        "no package named ray",
        "the optional dependencies of the extra 'ray'",
        'pip install "guda-lightning[ray]"',
    )
    with pytest.raises(MissingExtraError, match=expected):
        RayCluster()


@pytest.mark.parametrize("wrong", [{"num_cpus": 0}, {"num_gpus": -1}, {"max_retries": -1}], ids=str)
def test_needs_out_of_range(wrong: dict[str, int]) -> None:
    given = {"num_cpus": 1, "num_gpus": 1, "max_retries": 3, **wrong}
    expected = message(
        "the needs of a task are out of range",
        ", ".join(f"{name} {value}" for name, value in given.items()),
        "num_cpus > 0, num_gpus >= 0 and max_retries >= 0",
        "correct spread.init_args",
    )
    with pytest.raises(ConfigError, match=expected):
        RayCluster(**wrong)  # type: ignore[arg-type]


def test_devices_of_a_task() -> None:
    assert [RayCluster(num_gpus=gpus).devices for gpus in (0, 0.5, 1, 2)] == [None, 1, 1, 2]
