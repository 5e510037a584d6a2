"""Seconds, memory and disk by model, method and number of groups: the tables of docs/sizing.md.

Everything about GPUs is computed, since none was at hand; how well operations tell seconds is measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks import rates
from benchmarks.gpu_costs import (
    DISK,
    EVALUATIONS,
    FORWARD,
    PEAK,
    QUERIES,
    RANK,
    SCORED,
    TRAIN_STEP,
    UTILISATION,
    Memory,
    Recipe,
)
from benchmarks.networks import DDPM, DIGITS, DIGITS_TWICE, SD15, SMALL, Counted
from benchmarks.sizes import TOY
from benchmarks.stages import Asked
from benchmarks.tables import PAGES, write_table
from guda_lightning.diffusion.cost import readable_seconds
from guda_lightning.posteriors import ClassifierPlan

GROUPS = (10, 60, 1000)
DAY = 86400.0
MOST_GPUS = 64
LITTLE = 16  # GB of a small GPU; the large one holds every row
NOTES = (
    f"Computed, not measured: operations over {UTILISATION:.0%} of {PEAK / 1e12:.0f} TFLOP/s (bf16 of an "
    f"H100, dense), {1e3 * TRAIN_STEP:.0f} ms more to start a training step and {1e3 * FORWARD:.0f} ms for a "
    f"forward pass of {SCORED}, noise drawn on a CPU as fast as above, models read at {DISK / 1e9:g} GB/s. "
    f"{QUERIES:,} queries × {EVALUATIONS} evaluations. Training and scoring are on one GPU; GPUs are as many "
    f"as bring both below a day, at most {MOST_GPUS}."
)
BUDGET_NOTES = (
    "Computed as above; 4 s for the clean images of a group, 30 s to calibrate, 6 s to read the pictures and "
    "30 s a slice are guesses."
)


@dataclass(frozen=True)
class Row:
    """What one method costs for some groups.

    Attributes:
        method: Its name.
        training: Seconds of one GPU.
        scoring: Likewise.
        memory: Of a training step.
        disk: GB of everything that is kept.
        parts: Models that can be made at the same time; 1 where one serves all groups.
        part: Seconds of one GPU for one of them.
    """

    method: str
    training: float
    scoring: float
    memory: Memory
    disk: float
    parts: int
    part: float

    @property
    def total(self) -> float:
        """Seconds of one GPU."""
        return self.training + self.scoring


def run(asked: Asked) -> None:
    """Write the tables of docs/sizing.md."""
    toy = asked.size is TOY
    timed = rates.measured([DIGITS, DIGITS_TWICE] if toy else [DIGITS, DIGITS_TWICE, SMALL, DDPM])
    noise = rates.noise_seconds()
    _write(asked, "sizing-rate", timed, f"{rates.NOTES} Noise took {noise * 1e9:.0f} ns a number.")
    sd = {**SD15, "block_out_channels": (32, 32, 32, 32)} if toy else SD15
    recipes = {
        "small": Recipe(Counted(SMALL), 100_000, 1000, 512, 150, 128),
        "paper": Recipe(Counted(DDPM), 100_000, 507_000, 256, 975, 128),
        "sd": Recipe(Counted(sd, True), 24_000, 10_000, 4, 2000, 4, 2, averaged=False, checkpointing=True),
    }
    for name, recipe in recipes.items():
        rows = [
            {"groups": f"{groups:,}", **_described(row)}
            for groups in GROUPS
            for row in methods(recipe, groups, noise)
        ]
        network, memory = recipe.network, recipe.fit_memory
        full = (
            f"Network of {network.parameters / 1e6:.1f} M parameters, {network.flops / 1e9:.1f} GFLOPs an "
            f"evaluation. The full model: {_readable(recipe.fit())} of one GPU, {memory.total:.1f} GB."
        )
        _write(asked, f"sizing-{name}", rows, f"{full} {NOTES}")
    _write(asked, "sizing-cifar10-gpu", budget(recipes["small"], noise), BUDGET_NOTES)


def methods(recipe: Recipe, groups: int, noise: float) -> list[Row]:
    """What every method that fits a model costs.

    Args:
        recipe: The model.
        groups: How many.
        noise: Seconds to draw one number.
    """
    weights = 4 * recipe.network.parameters / 1e9
    errors = 16 * QUERIES * EVALUATIONS * (groups + 1) / 1e9
    scored = recipe.score(groups + 1, noise)
    read = groups * weights * 1e9 / DISK
    unlearnt, fitted = recipe.unlearn(), recipe.fit()
    if recipe.network.prompted:
        first = Row(
            f"anchors, LoRA of rank {RANK}",
            groups * unlearnt,
            scored,
            recipe.adapter_memory,
            groups * 4 * recipe.adapter / 1e9 + errors,
            groups,
            unlearnt,
        )
    else:
        jacobian = min(groups, ClassifierPlan().features)
        guided = recipe.score(1, noise, jacobian)
        # What the classifier and its Jacobian hold was not counted: 4 GB are taken for both.
        first = Row("guidance", recipe.guide(), guided, Memory(weights, 4.0), errors, 1, recipe.guide())
    objective = "anchors" if recipe.network.prompted else "retrack"
    kept = groups * weights + errors
    return [
        first,
        Row(
            f"{objective}, all weights",
            groups * unlearnt,
            scored + read,
            recipe.unlearn_memory,
            kept,
            groups,
            unlearnt,
        ),
        Row(
            "retraining, one seed",
            groups * fitted,
            scored + read,
            recipe.fit_memory,
            kept,
            groups,
            fitted,
        ),
    ]


def budget(recipe: Recipe, noise: float) -> list[dict[str, object]]:
    """The seconds of the benchmark ``cifar10_gpu``, part by part: 10 groups, 2 seeds, 160 queries."""
    share = 160 / QUERIES
    parts = {
        "full model, and retraining of 10 groups by 2 seeds": 21 * recipe.fit(),
        "retrack and zero_target of 10 groups": 20 * recipe.unlearn(),
        "clean images for retrack, read and moved": 10 * 4.0,
        "classifier of guidance, trained and calibrated": recipe.guide() + 30,
        "scores of 41 models, 100 evaluations": share * recipe.score(41, noise),
        "of 20 models at 3 steps, with and without average, 25": share * recipe.score(120, noise) / 4,
        "pictures, read by each of 13 stages": 13 * 6.0,
        "four slices begun, and what each lost": 4 * 30.0,
    }
    rows: list[dict[str, object]] = [
        {"part": name, "seconds": f"{value:.0f}"} for name, value in parts.items()
    ]
    return [*rows, {"part": "all", "seconds": f"{sum(parts.values()):.0f}"}]


def _described(row: Row) -> dict[str, object]:
    """A row as cells, with a strategy, and one sentence."""
    wanted = max(1, math.ceil(row.total / DAY))
    gpus = min(2 ** math.ceil(math.log2(wanted)), row.parts, MOST_GPUS)
    little = row.memory.gpus(LITTLE)
    return {
        "method": row.method,
        "training": _readable(row.training),
        "scoring": _readable(row.scoring),
        "memory": f"{row.memory.total:.1f} GB",
        f"on GPUs of {LITTLE} GB": {0: "no", 1: "fits"}.get(little, f"fsdp2 over {little}"),
        "disk": f"{row.disk:.2f} GB" if row.disk < 1 else f"{row.disk:,.0f} GB",
        "strategy": "spread over groups" if gpus > 1 else "single",
        "GPUs": gpus,
        "takes": _readable(row.total / gpus),
        "advice": _advice(row, gpus),
    }


def _advice(row: Row, gpus: int) -> str:
    """When to take this method."""
    a_day = max(1, int(DAY // row.part))  # models of it
    if row.method == "guidance":
        return "Begin here: one posterior serves all groups."
    if "LoRA" in row.method:
        return "Begin here: a group is a file of a few MB."
    if row.method.startswith("retraining"):
        if row.total <= DAY:
            return "Affordable: judge the others by it, with a second seed."
        if row.part <= DAY / 3:
            return f"A yardstick for some groups: {min(a_day, row.parts)} in a day of one GPU."
        return f"A yardstick for one or two groups, {_readable(row.part)} of one GPU each."
    if row.disk > 1000:
        return "Not for all groups: the disk. For those that cheaper scores put first."
    if row.total <= DAY:
        return "A second opinion, and models to sample from."
    return f"All in a day of {gpus} GPUs; or those alone that cheaper scores put first."


def _write(asked: Asked, name: str, rows: Sequence[Mapping[str, object]], notes: str) -> None:
    write_table(asked.docs, name, asked.command("sizing"), rows, notes, PAGES[1])


def _readable(seconds: float) -> str:
    return readable_seconds(seconds) if seconds < 2 * DAY else f"{seconds / DAY:,.0f} days"
