"""Whether pictures of larger models can be attributed less: radius and placebo against the training images.

Dai and Gifford (arXiv 2406.07908) find that the radius shrinks with the number of training images, for units
of one image or one artist.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from benchmarks import groupings
from benchmarks.stages import Asked, Bench
from benchmarks.tables import write_table
from guda_lightning.functional.distances import counterfactual_radius
from guda_lightning.functional.student import t_quantile
from guda_lightning.report.distances import PIXELS, Distances
from guda_lightning.storage.frames import load_frame

SMALLEST = 225  # images, of which a group of fixed size is a tenth
SIZES = (225, 450, 900, 1797)
CLASSES, PARTS = "a tenth of the data", "about 22 images"  # what one group is
STEPS, NUM, DENOISING = 500, 32, 25
SAMPLED = ("--num", str(NUM), "--steps", str(DENOISING))
# Shares of groups in the posterior of the whole noised picture: cheap enough for 99 partitions.
NDA = (
    *("-c", "attribute/nda.yaml", "--attributor.init_args.timesteps", "[400]"),
    *("--attributor.init_args.patch", "15", "--attributor.init_args.anywhere", "false"),
)


class Found(NamedTuple):
    """What one model says.

    Attributes:
        images: Number of training images.
        groups: Number of groups.
        radii: Of each query.
        apart: Mean distance between two queries.
        attributable: Share of the queries that some group influences more than random groups do.
    """

    images: int
    groups: int
    radii: NDArray[np.float64]
    apart: float
    attributable: float


def run(asked: Asked) -> None:
    """Fit, draw with and without each group, and test against random groups, at each number of images."""
    found: dict[str, list[Found]] = {CLASSES: [], PARTS: []}
    for images in SIZES[: asked.size.kinds]:
        options = (
            *("-c", "digits.yaml", "--trainer.logger", "false", "--trainer.max_steps", str(STEPS)),
            *("--data.init_args.limit", str(images)),
        )
        bench = Bench(asked.runs / f"radius-{images}", *options, steps=STEPS, size=asked.size)
        bench.stage("fit", label="fit")
        table = parts(asked.runs / f"radius-{images}.csv", images // SMALLEST)
        split = bench.beside(asked.runs / f"radius-{images}-parts", "--data.init_args.groups", str(table))
        for what, one in ((CLASSES, bench), (PARTS, split)):
            found[what].append(_found(one, images))
    rows = [_row(what, one) for what, every in found.items() for one in every]
    write_table(asked.docs, "radius", asked.command("radius"), rows, _notes(found))


def parts(path: Path, count: int) -> Path:
    """Every class in so many random parts."""
    targets = load_digits().target
    rng = np.random.default_rng(0)
    number = np.empty(len(targets), dtype=np.int64)
    for digit in range(10):
        members = rng.permutation(np.flatnonzero(targets == digit))
        number[members] = np.arange(len(members)) % max(1, count)
    names = [f"{digit}-{part}" for digit, part in zip(targets, number, strict=True)]
    return Path(groupings.write(path, np.array(names)))


def exponent(
    images: Sequence[int], radii: Sequence[float], level: float = 0.95
) -> tuple[float, float, float]:
    """``a`` of ``CR ∝ N^−a`` by least squares on logarithms, with Student's interval; NaN without one.

    Args:
        images: N of each model.
        radii: CR of each model.
        level: Of the interval.
    """
    x, y = np.log(images), np.log(radii)
    (slope, start), count = np.polyfit(x, y, 1), len(x)
    if count < 3:
        return -slope, np.nan, np.nan
    rest = np.square(y - start - slope * x).sum() / (count - 2)
    error = np.sqrt(rest / np.square(x - x.mean()).sum())
    half = float(t_quantile(1 - level, torch.tensor([count - 2]))) * error
    return -slope, -slope - half, -slope + half


def _found(bench: Bench, images: int) -> Found:
    bench.stage("sample", *SAMPLED, label="sample")
    bench.stage("guide", label="guide")
    without = ("--without", "all", "--operator", "guidance")
    bench.stage("sample", *SAMPLED, *without, label="sample without")
    bench.stage("attribute", *NDA, label="attribute nda")
    bench.stage("placebo", *NDA, label="placebo nda")
    distances = Distances(*load_frame(bench.run.distances("guidance"), "guda sample --without all"))
    _, groups, matrix = distances.matrix()
    tested = pd.read_parquet(bench.run.placebo / "queries" / "nda-0.parquet")
    weighting = tested["weighting"].iloc[0]
    return Found(
        images,
        len(groups),
        counterfactual_radius(matrix)[0].numpy(),
        float(distances.record["apart"][PIXELS]),
        float(tested[tested["weighting"] == weighting]["attributable"].mean()),
    )


def _row(what: str, found: Found) -> dict[str, object]:
    low, middle, high = np.quantile(found.radii, (0.1, 0.5, 0.9))
    return {
        "a group is": what,
        "training images": found.images,
        "groups": found.groups,
        "radius, median query": f"{middle:.3f}",
        "10 % to 90 % of the queries": f"{low:.3f} to {high:.3f}",
        "radius / two queries apart": f"{middle / found.apart:.2f}",
        "attributable by NDA": f"{found.attributable:.0%}",
    }


def _notes(found: dict[str, list[Found]]) -> str:
    fitted = []
    for what, every in found.items():
        radii = [float(np.median(one.radii)) for one in every]
        value, low, high = exponent([one.images for one in every], radii)
        ends = "" if low != low else f" [{low:.2f}, {high:.2f}]"
        fitted.append(f"{value:.2f}{ends} where a group is {what}")
    return (
        f"One model of {STEPS} steps for each number of images; {NUM} queries in {DENOISING} steps; "
        "counterfactuals by guidance. Radius: root mean square difference of pixels in [−1, 1]. "
        f"Median radius ∝ N^−a: a = {', '.join(fitted)} (least squares, Student's 95 % interval over models; "
        "a model is trained once). Attributable: 99 random partitions, false discovery rate 5 %, by groups' "
        "shares in the posterior of the whole noised picture (t = 400 of 1000), a stand-in: guidance for "
        "every partition is not affordable here."
    )
