"""The oracles that the benchmarks compare with: a full model, queries, and retraining without each group."""

from __future__ import annotations

from pathlib import Path

from benchmarks.snapshots import fragment
from benchmarks.stages import Bench

QUERIES = 160


def digits(runs: Path, seeds: int = 3) -> Bench:
    """Ten classes of handwritten digits."""
    bench = Bench(runs / "digits", "-c", "digits.yaml", "--trainer.logger", "false")
    return with_oracle(bench, seeds, [250, 500, 1000])


def cifar10(runs: Path, images: Path, seeds: int = 2) -> Bench:
    """Ten classes of 20 000 CIFAR-10 images, shrunk to 8 x 8."""
    bench = Bench(
        runs / "cifar10",
        *("-c", "cifar10_small.yaml", "--trainer.logger", "false"),
        *("--data.init_args.source.init_args.path", str(images), "--data.init_args.limit", "20000"),
    )
    return with_oracle(bench, seeds, [500, 1000, 2000])


def with_oracle(bench: Bench, seeds: int, snapshots: list[int]) -> Bench:
    """Full model, queries, and the oracle of every group and seed, scored at the end and at some steps."""
    bench.stage("fit")
    bench.stage("sample", "--num", str(QUERIES))
    watched = fragment(
        bench.run.root / "snapshots.yaml", [bench.run.queries], bench.run.root / "snapshots", snapshots
    )
    for seed in range(seeds):
        bench.stage("retrain", "-c", watched, "--seeds", str(seed), label=f"retrain {seed}")
        scored = ("-c", "attribute/elbo.yaml", "--operator", "retrain", "--seed", str(seed))
        bench.stage("attribute", *scored, label=f"attribute retrain {seed}")
    return bench
