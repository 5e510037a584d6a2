"""CIFAR-10 at 32 × 32 on one GPU: a full model, two oracle seeds, and the main methods against them.

Made to take less than half an hour of one H100, in slices of a few minutes that go on from each other
(``--minutes``). What it takes is computed in docs/sizing.md before anyone has measured it.
"""

from __future__ import annotations

from benchmarks import oracles
from benchmarks.agree import draw_yardstick, score_all, table
from benchmarks.sizes import GPU, TOY, TOY_GPU
from benchmarks.stages import Asked, unit
from benchmarks.tables import write_table

METHODS = ("guidance", "retrack", "zero_target")


def run(asked: Asked) -> None:
    """Make, score and compare everything, and write the table and the yardstick."""
    bench = oracles.cifar10_gpu(asked, TOY_GPU if asked.size is TOY else GPU)
    score_all(bench, METHODS)
    notes = (
        f"{unit().capitalize()} for ten groups, training and scoring of {bench.size.queries} queries × "
        "100 evaluations, all slices added up; those of the oracle are of one seed. Agreement with the mean "
        "of the other oracle seeds, each left out in turn, with 95 % intervals over queries and seeds."
    )
    write_table(asked.docs, "cifar10_gpu", asked.command("cifar10_gpu"), table(bench), notes)
    draw_yardstick(asked, bench, "cifar10_gpu")
