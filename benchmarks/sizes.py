"""How large the benchmarks are: as measured, or as a toy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path


@dataclass(frozen=True)
class Size:
    """The numbers that make a benchmark take hours; the defaults are those that are measured.

    Attributes:
        queries: Queries that methods are compared on.
        steps: Training steps of the full model and the oracle, where other than a benchmark's own number.
        classes: Digits that are groups; the others are in no group.
        pairs: Digits that are removed together.
        subsets: Halves of the groups that models are retrained without.
        groups: Numbers of groups that costs are compared at.
        hashed: Number of random groups that ensembles are trained for.
        members: Number of members of these.
        screened: Likewise, where all but a few are screened out.
        kept: How many are kept then.
        unlearning: Steps after which a sweep scores.
        short: Of these, after which most of its hyper-parameters stop.
        images: Images of CIFAR-10.
        kinds: How many methods, classifiers or hyper-parameters are compared at most.
        damped: Options of the methods whose λ is chosen.
        timed: Images that a step is timed on, of digits alone, where other than a benchmark's own number.
        styled: Digits that are rendered in every style.
        streamed: Numbers of queries that memory is compared at.
        counterfactuals: How many are stored, listed and opened.
        weights: Numbers of a full model that is verified, of four bytes each.
        rows: Of a page.
        many: Groups whose counterfactuals lie in one store.
        stored: Numbers of training samples whose gradients are stored.
        dims: Dimensions of these.
        pipeline: Steps of the parts of a small pipeline, where other than its own numbers.
        network: Options of every stage with a UNet of its own, after a benchmark's own.
        everywhere: Options of every stage, likewise.
        stages: Options of a stage by its name, after all others.
    """

    queries: int = 160
    steps: int | None = None
    classes: int = 10
    pairs: Sequence[str] = ("3+8", "4+9", "1+7")  # digits that look alike
    subsets: int = 16
    groups: Sequence[int] = (10, 20, 60, 200)
    hashed: int = 60
    members: int = 10
    screened: Sequence[int] = (20, 1000)
    kept: int = 4
    unlearning: Sequence[int] = (15, 30, 60, 120)
    short: int = 30
    images: int = 20000
    kinds: int | None = None
    damped: Sequence[str] = ()
    timed: int | None = None
    styled: int = 600
    streamed: Sequence[int] = (300, 1_000, 10_000, 100_000)
    counterfactuals: int = 10_000
    weights: int = 850_000_000
    rows: int = 10_000
    many: int = 1_000
    stored: Sequence[int] = (5_000, 50_000)
    dims: int = 4096
    pipeline: int | None = None
    network: Sequence[str] = ()
    everywhere: Sequence[str] = ()
    stages: Mapping[str, Sequence[str]] = field(default_factory=dict)


_HERE = Path(__file__).parent
TOY = Size(
    queries=6,
    steps=8,
    classes=4,  # one more than the leading groups that a race looks for
    pairs=("0+1",),
    subsets=3,
    groups=(4,),
    hashed=5,
    members=4,
    screened=(5, 6),
    unlearning=(1, 2),
    short=2,
    images=400,
    kinds=2,
    damped=(
        *("--attributor.init_args.dims", "8", "--attributor.init_args.strata", "2"),
        *("--attributor.init_args.training_strata", "2"),
    ),
    timed=4,
    styled=20,
    streamed=(3, 5),
    weights=1000,
    counterfactuals=20,
    rows=40,
    many=12,
    stored=(600,),
    dims=16,
    pipeline=2,
    network=("-c", str(_HERE / "toy_network.yaml")),
    everywhere=("-c", str(_HERE / "toy.yaml")),
    stages={
        "guide": ("--classifier.steps", "4"),
        "unlearn": ("--steps", "2"),
        "sample": ("--steps", "3", "--num", "6"),
        "balance": ("--steps", "3", "--num", "3", "--scoring.strata", "2"),
    },
)

GPU = Size(
    stages={
        "unlearn": ("--steps", "150", "--data.init_args.batch_size", "128"),
        "guide": ("--classifier.steps", "2000", "--classifier.batch_size", "512"),
    }
)
TOY_GPU = replace(  # of images that a CPU has the time for
    TOY,
    queries=3,
    network=(*TOY.network, "--model.init_args.denoiser.init_args.sample_size", "8"),
    everywhere=(
        *TOY.everywhere,
        *("--trainer.precision", "32-true"),
        *("--data.init_args.image_size", "8", "--data.init_args.batch_size", "8"),
    ),
    stages={**TOY.stages, "sample": ("--steps", "3", "--num", "3")},
)
