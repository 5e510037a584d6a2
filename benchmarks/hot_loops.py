"""How far scoring and unlearning steps are from the bare cost of their network evaluations."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from benchmarks import profiled
from benchmarks.loops import MEASURED, TOYS, Work, scoring_forms, step_forms
from benchmarks.stages import Asked
from benchmarks.tables import write_table
from guda_lightning.unlearning import ReTrack, ZeroTarget

NOTES = (
    "Core seconds of the process and seconds of the clock, medians of repeats that alternate between the "
    "forms; a ratio is the median over repeats. Scoring: `CounterfactualAttributor.score` with two stored "
    "groups, reading them included, against as many forward passes on ready tensors (frozen weights, "
    "inference mode, channels last); straightforward: the same numbers by a plain loop; reference: the "
    "loop of the paper's code, query by query and timestep by timestep with ten noise draws, one model "
    "loaded at a time. Steps: everything from one step to the next in a Lightning trainer against "
    "forward, backward and AdamW on ready tensors (`distill`: and the full model's forward pass). "
    "Networks have random weights and no dropout."
)


def run(asked: Asked) -> None:
    """Time scoring and unlearning steps, and profile both."""
    rows: list[dict[str, object]] = []
    shares: list[dict[str, object]] = []
    for name, setting in (MEASURED if asked.size.timed is None else TOYS).items():
        with TemporaryDirectory() as folder:
            forms, evaluations = scoring_forms(setting, Path(folder))
            rows += _rows(
                f"scoring, {name}", alternated(forms, setting.repeats), evaluations, "µs / evaluation"
            )
            shares.append({"loop": f"scoring, {name}", **profiled.shares(forms["ours"])})
            for objective in (ReTrack(), ZeroTarget(), ZeroTarget(preserve="distill")):
                forms = step_forms(setting, objective, Path(folder))
                loop = f"{objective.operator} step, {name}"
                rows += _rows(loop, alternated(forms, setting.repeats), setting.steps * 1000, "ms / step")
                if objective.preserve == "denoise":
                    shares.append({"loop": loop, **profiled.shares(forms["ours"])})
    write_table(asked.docs, "hot-loops", asked.command("hot_loops"), rows, NOTES)
    write_table(asked.docs, "hot-loops-profile", asked.command("hot_loops"), shares, profiled.NOTES)


def alternated(forms: dict[str, Work], repeats: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds of the cores and of the clock of every form, in turn, after one repeat to warm up.

    A form that returns two numbers says its seconds itself.
    """
    found: dict[str, list[tuple[float, float]]] = {form: [] for form in forms}
    for _ in range(repeats + 1):
        for form, work in forms.items():
            core, clock = time.process_time(), time.perf_counter()
            said = work()
            spent = time.process_time() - core, time.perf_counter() - clock
            found[form].append(cast(tuple[float, float], said) if isinstance(said, tuple) else spent)
    return {form: times[1:] for form, times in found.items()}


def _rows(
    loop: str, times: dict[str, list[tuple[float, float]]], count: int, unit: str
) -> list[dict[str, object]]:
    bare = next(iter(times.values()))
    factor = 1e6 / count
    return [
        {
            "loop": loop,
            "form": form,
            "unit": unit,
            "core": f"{factor * statistics.median(core for core, _ in found):.4g}",
            "clock": f"{factor * statistics.median(clock for _, clock in found):.4g}",
            "core / bare": f"{_ratio(found, bare, 0):.2f}",
            "clock / bare": f"{_ratio(found, bare, 1):.2f}",
        }
        for form, found in times.items()
    ]


def _ratio(found: list[tuple[float, float]], bare: list[tuple[float, float]], kind: int) -> float:
    return statistics.median(one[kind] / other[kind] for one, other in zip(found, bare, strict=True))
