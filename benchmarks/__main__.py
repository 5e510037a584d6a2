"""``make benchmark``: all benchmarks, or those named; each goes on where it was stopped."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks import (
    agree,
    balance,
    cifar10_gpu,
    classifiers,
    coalitions,
    curate,
    dampings,
    demo,
    early,
    ensembles,
    estimates,
    evaluations,
    forget_target,
    gradients_memory,
    hard_groups,
    hot_loops,
    lds,
    load,
    many_groups,
    memory,
    mixtures,
    nda,
    radius,
    regroup,
    screening,
    sizing,
    spoiled,
    startup,
    streaming,
    styles,
    sweeps,
    yardsticks,
)
from benchmarks.sizes import TOY, Size
from benchmarks.slices import OVER, slice_of
from benchmarks.stages import DOCS, Asked
from benchmarks.tables import PAGES

BENCHMARKS: dict[str, Callable[[Asked], None]] = {
    "yardsticks": yardsticks.run,
    "methods": agree.methods,
    "lds": lds.run,
    "dampings": dampings.run,
    "forget_target": forget_target.run,
    "demo": demo.run,
    "digits": agree.digits,
    "guidance": agree.guidance,
    "speed": agree.speed,
    "classifiers": classifiers.run,
    "mixtures": mixtures.run,
    "evaluations": evaluations.run,
    "nda": nda.run,
    "regroup": regroup.run,
    "halves": hard_groups.halves,
    "tenths": hard_groups.tenths,
    "mislabelled": hard_groups.mislabelled,
    "coalitions": coalitions.run,
    "groups": many_groups.run,
    "screening": screening.run,
    "ensembles": ensembles.run,
    "balance": balance.run,
    "early": early.run,
    "spoiled": spoiled.run,
    "curate": curate.run,
    "radius": radius.run,
    "sweeps": sweeps.run,
    "styles": styles.run,
    "memory": memory.run,
    "sizing": sizing.run,
    "streaming": streaming.run,
    "load": load.run,
    "gradients_memory": gradients_memory.run,
    "estimates": estimates.run,
    "hot_loops": hot_loops.run,
    "startup": startup.run,
    "cifar10": agree.cifar10,
    "cifar10_steps": sweeps.cifar10,
    "cifar10_gpu": cifar10_gpu.run,
}
# As a user runs them; the others are measured on one core.
ALL_CORES = ("forget_target", "demo", "cifar10_gpu")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmarks that were asked for."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/benchmarks"), help="folder for everything made"
    )
    parser.add_argument(
        "--cifar10",
        type=Path,
        help="Parquet file of the CIFAR-10 training images, or the folder of train.parquet",
    )
    parser.add_argument("--seeds", type=int, help="oracle seeds: those of the yardstick")
    parser.add_argument(
        "--remake", action="store_true", help="retrain oracles instead of reading them from yardsticks"
    )
    parser.add_argument("--steps", type=int, help="training steps of the CIFAR-10 models: 2000")
    parser.add_argument("--classes", type=int, help="classes whose parts are retrained: 10")
    parser.add_argument(
        "--only",
        default="",
        metavar="NAMES",
        help="of methods, lds, dampings, load: which, such as trak,das",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        help=f"end after so many, with exit status {OVER}; the same command goes on",
    )
    parser.add_argument(
        "--toy",
        type=Path,
        metavar="FOLDER",
        help="run all of the code at a tiny size, with everything made and written in this folder",
    )
    chosen = parser.parse_args(arguments)
    if chosen.cifar10 and chosen.cifar10.is_dir():
        chosen.cifar10 /= "train.parquet"
    names = chosen.names or [name for name in BENCHMARKS if _by_default(name, chosen.cifar10)]
    for name in names:
        if name not in BENCHMARKS:
            parser.error(f"no benchmark {name!r}: choose from {', '.join(BENCHMARKS)}")
        if name.startswith("cifar10") and not (chosen.cifar10 and chosen.cifar10.is_file()):
            parser.error(f"{name} needs --cifar10 FILE: Parquet with the columns img and label")
    runs, docs, size = chosen.runs, DOCS, Size()
    if chosen.toy is not None:
        runs, docs, size = chosen.toy / "runs", chosen.toy / "docs", TOY
        docs.mkdir(parents=True, exist_ok=True)
        for page in PAGES:
            shutil.copy(DOCS / page, docs)
    only = [name for name in chosen.only.split(",") if name]
    asked = Asked(
        runs,
        chosen.cifar10,
        chosen.seeds,
        chosen.steps,
        chosen.classes,
        docs,
        size,
        chosen.remake,
        only,
    )
    with slice_of(chosen.minutes):
        for name in names:
            if name not in ALL_CORES:
                torch.set_num_threads(1)
            BENCHMARKS[name](asked)


def _by_default(name: str, cifar10: Path | None) -> bool:
    """Whether a benchmark runs where none is named: all that the images, if any, and this machine are for."""
    if name == "cifar10_gpu" and not torch.cuda.is_available():
        return False
    return cifar10 is not None or not name.startswith("cifar10")


if __name__ == "__main__":
    main()
