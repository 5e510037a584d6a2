"""The oracles that the benchmarks compare with: read from the yardsticks, or made anew."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import groupings
from benchmarks.sizes import TOY, Size
from benchmarks.stages import Asked, Bench
from guda_lightning.data import Digits, GroupDataModule
from guda_lightning.storage.files import canonical_json
from guda_lightning.storage.full_record import FullRecord
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.weights_record import RECORD
from guda_lightning.storage.yardsticks import Yardstick, place, shipped

IMAGES = {
    "option": "data.init_args.source.init_args.path",
    "what": "the Parquet file of the CIFAR-10 training images (columns img, label)",
}
SHARES = {
    "halves": (0.5, "ab"),
    "tenths": (0.1, "a"),
}  # share of a class, and which of its parts are retrained


def digits(asked: Asked, *, weights: bool = False) -> Bench:
    """Ten classes of handwritten digits; where the weights of the oracle are needed, retrained."""
    return (None if weights else _packed(asked, "digits")) or with_oracle(of_digits(asked))


def of_digits(asked: Asked) -> Bench:
    """The run folder of the digits, with whatever is in it."""
    options = ["-c", "digits.yaml", "--trainer.logger", "false"]
    if asked.size.classes < 10:
        some = groupings.digits(asked.runs / "digits.csv", asked.size.classes)
        options += ["--data.init_args.groups", some]
    return Bench(asked.runs / "digits", *options, seeds=asked.seeds or 3, steps=1000, size=asked.size)


def digits_data(asked: Asked) -> GroupDataModule:
    """The digits with their groups."""
    some = asked.size.classes < 10
    of = groupings.digits(asked.runs / "digits.csv", asked.size.classes) if some else None
    return GroupDataModule(Digits(), groups=of)


def cifar10(asked: Asked, *, weights: bool = False) -> Bench:
    """Ten classes of 20 000 CIFAR-10 images, shrunk to 8 x 8."""
    packed = None if weights or asked.steps else _packed(asked, "cifar10", asked.cifar10)
    return packed or with_oracle(of_cifar10(asked))


def of_cifar10(asked: Asked) -> Bench:
    """The run folder of CIFAR-10, with whatever is in it."""
    steps = asked.steps or 2000
    options = (
        *("-c", "cifar10_small.yaml", "--trainer.logger", "false", "--trainer.max_steps", str(steps)),
        *(f"--{IMAGES['option']}", str(asked.cifar10)),
        *("--data.init_args.limit", str(asked.size.images)),
    )
    return Bench(asked.runs / "cifar10", *options, seeds=asked.seeds or 4, steps=steps, size=asked.size)


def cifar10_gpu(asked: Asked, size: Size) -> Bench:
    """Ten classes of CIFAR-10 as it is, by the network of cifar10_gpu.yaml."""
    steps = asked.steps or 1000
    options = (
        *("-c", "cifar10_gpu.yaml", "--trainer.logger", "false", "--trainer.max_steps", str(steps)),
        *(f"--{IMAGES['option']}", str(asked.cifar10)),
    )
    root, seeds = asked.runs / "cifar10_gpu", asked.seeds or 2
    return with_oracle(Bench(root, *options, seeds=seeds, steps=steps, size=size))


def parts(asked: Asked, name: str) -> Bench:
    """Digits whose classes are in two parts each, of which those of some classes are retrained."""
    return _packed(asked, name) or with_oracle(of_parts(asked, name, digits(asked)), part_names(asked, name))


def of_parts(asked: Asked, name: str, whole: Bench) -> Bench:
    """The run folder of parts of classes, with the full model and the queries of the classes."""
    groups = groupings.split(asked.runs / f"{name}.csv", SHARES[name][0], asked.size.classes)
    return regrouped(asked.runs / name, groups, whole, asked.seeds or 2)


def part_names(asked: Asked, name: str) -> list[str]:
    """The parts that are retrained."""
    classes = asked.classes or min(2, asked.size.classes)
    return [f"{digit}{part}" for digit in range(classes) for part in SHARES[name][1]]


def regrouped(root: Path, groups: str, base: Bench, seeds: int = 1) -> Bench:
    """The data of a bench under other groups, with its full model and its queries."""
    run = RunFolder(root)
    if base.run.full.exists() and not run.full.exists():
        shutil.copytree(base.run.queries, run.queries, dirs_exist_ok=True)
        # Training the full model did not use the groups that its data had.
        record = FullRecord.from_file(base.run.full / RECORD)
        config = json.loads(canonical_json(record.config))
        place(config, "data.init_args.groups", groups)
        replace(record, config=config, grouping_hash=None).save(base.run.full, run.full)
    options = (*base.options, "--data.init_args.groups", groups)
    return Bench(root, *options, seeds=seeds, steps=base.steps, size=base.size)


def with_oracle(bench: Bench, groups: Sequence[str] = ()) -> Bench:
    """Full model, queries, and the oracle of every group and seed, scored."""
    if not bench.run.queries.exists():
        bench.stage("fit")
        bench.stage("sample", "--num", str(bench.size.queries))
    for seed in range(bench.seeds):
        some = ("--groups", ",".join(groups)) if groups else ()
        bench.stage("retrain", "--seeds", str(seed), *some, label=f"retrain {seed}")
        scored(bench, seed, groups)
    return bench


def scored(bench: Bench, seed: int, groups: Sequence[str] = ()) -> None:
    """Score one seed of an oracle that is retrained."""
    some = ("--groups", ",".join(groups)) if groups else ()
    of = ("-c", "attribute/elbo.yaml", "--operator", "retrain", "--seed", str(seed))
    bench.stage("attribute", *of, *some, label=f"attribute retrain {seed}")


def _packed(asked: Asked, name: str, images: Path | None = None) -> Bench | None:
    """The yardstick of that name, unpacked, unless it is to be made anew or in another size."""
    if asked.size is TOY or asked.remake or name not in shipped():
        return None
    yardstick = Yardstick.find(name)
    seeds = len(yardstick.card["oracle_seeds"])
    if asked.seeds not in (None, seeds):
        return None
    root = asked.runs / f"yardstick-{name}"
    yardstick.unpack(root, images)
    options = ("-c", str(root / "yardstick.yaml"))
    bench = Bench(root, *options, seeds=seeds, steps=yardstick.card["training"]["steps"], card=yardstick.card)
    for label, seconds in yardstick.card["core_seconds"].items():
        bench.keep(label, seconds)
    return bench
