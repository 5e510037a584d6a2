"""The oracles that the other benchmarks compare with: full model, queries, and retraining without each group."""

from __future__ import annotations

from pathlib import Path

import yaml

from benchmarks.stages import Bench
DIGITS = [str(name) for name in range(10)]
CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck".split()
QUERIES = 160


def digits(runs: Path, seeds: int = 3) -> Bench:
    """Ten classes of handwritten digits."""
    bench = Bench(runs / "digits", "-c", "digits.yaml", "--trainer.logger", "false")
    return _with_oracle(bench, DIGITS, seeds, [250, 500, 1000])


def cifar10(runs: Path, images: Path, seeds: int = 2) -> Bench:
    """Ten classes of 20 000 CIFAR-10 images, shrunk to 8 x 8."""
    bench = Bench(
        runs / "cifar10",
        *("-c", "cifar10_small.yaml", "--trainer.logger", "false"),
        *("--data.init_args.source.init_args.path", str(images), "--data.init_args.limit", "20000"),
    )
    return _with_oracle(bench, CIFAR10, seeds, [500, 1000, 2000])


def _with_oracle(bench: Bench, groups: list[str], seeds: int, snapshots: list[int]) -> Bench:
    bench.stage("fit")
    bench.stage("sample", "--num", str(QUERIES))
    fragment = bench.run.root / "snapshots.yaml"
    callback = {
        "class_path": "benchmarks.snapshots.Snapshots",
        "init_args": {"run": str(bench.run.root), "steps": snapshots},
    }
    fragment.write_text(yaml.safe_dump({"trainer": {"callbacks+": [callback]}}))
    for seed in range(seeds):
        for group in groups:
            bench.stage(
                *("retrain", "-c", str(fragment), "--groups", group, "--seeds", str(seed)),
                label=f"retrain {seed} {group}",
            )
        bench.stage("attribute", "-c", "attribute/elbo.yaml", "--operator", "retrain", "--seed", str(seed))
    return bench
