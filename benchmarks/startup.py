"""How long commands take that have nothing to do, against the imports that they cannot do without."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from tempfile import TemporaryDirectory

from benchmarks.stages import Asked
from benchmarks.tables import write_table
from guda_lightning.storage.runs import RunFolder

IMPORTS = "import torch, lightning.pytorch; from diffusers import UNet2DModel"
REPEATS = 3
NOTES = (
    "Seconds of the cores and of the clock, each command in a process of its own; medians of repeats that "
    "alternate between the commands, after one to warm up. A ratio is the median over repeats. Inputs of a "
    "complete fit are its command line, its YAML files and the rest of `cli/skipping.py`; the "
    "long way finds that a stage is complete with parsers, model and data."
)
SHORT = ("--trainer.max_steps", "12", "--trainer.max_epochs", "-1", "--trainer.logger", "false")


def run(asked: Asked) -> None:
    """Time them, in turn."""
    with TemporaryDirectory() as folder:
        run = RunFolder(asked.runs.absolute() / "startup")
        shared = ["-c", "digits.yaml", "--run", str(run.root), *SHORT, *asked.size.everywhere]
        unlearn = ["unlearn", *shared, "-c", "unlearn/retrack.yaml", "--steps", "1", "--groups", "3"]
        for arguments in (["fit", *shared], unlearn):
            _guda(arguments, folder)

        def long_way() -> None:
            run.fit_stamp.unlink(missing_ok=True)
            _guda(["fit", *shared], folder)

        forms: dict[str, Callable[[], None]] = {
            "the imports": lambda: _python(["-c", IMPORTS], folder),
            "fit, complete, the long way": long_way,
            "fit, complete, same inputs": lambda: _guda(["fit", *shared], folder),
            "unlearn, complete": lambda: _guda(unlearn, folder),
            "a path that does not exist": lambda: _guda(["attribute", *shared, "--queries", "no"], folder, 2),
            "--help": lambda: _guda(["--help"], folder),
        }
        seconds = _alternated(forms, REPEATS if asked.size.timed is None else 1)
    write_table(asked.docs, "startup", asked.command("startup"), _rows(seconds), NOTES)


def _python(arguments: Sequence[str], folder: str, code: int = 0) -> None:
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode != code:
        raise SystemExit(done.stderr)


def _guda(arguments: Sequence[str], folder: str, code: int = 0) -> None:
    _python(["-m", "guda_lightning", *arguments], folder, code)


def _alternated(forms: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[tuple[float, float]]]:
    """Core and clock seconds of each form, in turn, after one repeat to warm up."""
    found: dict[str, list[tuple[float, float]]] = {form: [] for form in forms}
    for _ in range(repeats + 1):
        for form, work in forms.items():
            before, clock = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            work()
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            core = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            found[form].append((core, time.perf_counter() - clock))
    return {form: measured[1:] for form, measured in found.items()}


def _rows(seconds: dict[str, list[tuple[float, float]]]) -> list[dict[str, object]]:
    imports = seconds["the imports"]
    rows: list[dict[str, object]] = []
    for form, measured in seconds.items():
        pairs = list(zip(measured, imports, strict=True))
        row: dict[str, object] = {"command": form}
        for at, name in enumerate(("core", "clock")):
            row[name] = f"{statistics.median(one[at] for one in measured):.2f}"
            row[f"{name} / imports"] = f"{statistics.median(a[at] / b[at] for a, b in pairs):.2f}"
        rows.append(row)
    return rows
