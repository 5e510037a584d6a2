"""The oracles that the benchmarks compare with: a full model, queries, and retraining without each group."""

from __future__ import annotations

from benchmarks import groupings
from benchmarks.sizes import Size
from benchmarks.snapshots import fragment
from benchmarks.stages import Asked, Bench


def digits(asked: Asked) -> Bench:
    """Ten classes of handwritten digits."""
    options = ["-c", "digits.yaml", "--trainer.logger", "false"]
    if asked.size.classes < 10:
        some = groupings.digits(asked.runs / "digits.csv", asked.size.classes)
        options += ["--data.init_args.groups", some]
    root, seeds = asked.runs / "digits", asked.seeds or 3
    return with_oracle(Bench(root, *options, seeds=seeds, steps=1000, size=asked.size))


def cifar10(asked: Asked) -> Bench:
    """Ten classes of 20 000 CIFAR-10 images, shrunk to 8 x 8."""
    steps = asked.steps or 2000
    options = (
        *("-c", "cifar10_small.yaml", "--trainer.logger", "false", "--trainer.max_steps", str(steps)),
        *("--data.init_args.source.init_args.path", str(asked.cifar10)),
        *("--data.init_args.limit", str(asked.size.images)),
    )
    root, seeds = asked.runs / "cifar10", asked.seeds or 2
    return with_oracle(Bench(root, *options, seeds=seeds, steps=steps, size=asked.size))


def cifar10_gpu(asked: Asked, size: Size) -> Bench:
    """Ten classes of CIFAR-10 as it is, by the network of cifar10_gpu.yaml."""
    steps = asked.steps or 1000
    options = (
        *("-c", "cifar10_gpu.yaml", "--trainer.logger", "false", "--trainer.max_steps", str(steps)),
        *("--data.init_args.source.init_args.path", str(asked.cifar10)),
    )
    root, seeds = asked.runs / "cifar10_gpu", asked.seeds or 2
    return with_oracle(Bench(root, *options, seeds=seeds, steps=steps, size=size))


def with_oracle(bench: Bench) -> Bench:
    """Full model, queries, and the oracle of every group and seed, scored at the end and at some steps."""
    bench.stage("fit")
    bench.stage("sample", "--num", str(bench.size.queries))
    steps = [bench.steps // 4, bench.steps // 2, bench.steps]
    watched = fragment(
        bench.run.root / "snapshots.yaml", [bench.run.queries], bench.run.root / "snapshots", steps
    )
    for seed in range(bench.seeds):
        bench.stage("retrain", "-c", watched, "--seeds", str(seed), label=f"retrain {seed}")
        scored = ("-c", "attribute/elbo.yaml", "--operator", "retrain", "--seed", str(seed))
        bench.stage("attribute", *scored, label=f"attribute retrain {seed}")
    return bench
