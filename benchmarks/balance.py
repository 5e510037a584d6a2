"""Whether images drawn for rare groups help a classifier more than showing the few real ones more often."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from benchmarks.stages import Asked, Bench, unit
from benchmarks.tables import write_table
from guda_lightning.posteriors import GUIDANCE
from guda_lightning.storage.files import atomic_folder, read_json

RARE = (3, 8, 9)  # digits that look alike
TRAINED, LEFT = 0.7, 0.1  # shares: of all images for training, and of these what rare digits have left
STEPS = 800  # of the full model
DRAWN = ("--steps", "50", "--scoring.strata", "25", "--scoring.draws", "1", "--least", "0")
CLASSIFIERS: Mapping[str, Callable[[int], Any]] = {
    "logistic regression": lambda seed: LogisticRegression(max_iter=2000),
    "64 hidden units": lambda seed: MLPClassifier((64,), max_iter=400, random_state=seed),
}
UNBALANCED = "unbalanced"
NOTES = (
    "Digits, of which {rare} have a tenth of their training images, {few} each beside {many}; the full model "
    "has seen no others. Drawn for these: `guda balance --num {num}`, whose check {lead} of the first images "
    "pass. Accuracy in % on held-out real images, of the digit that is told worst and of the mean digit: "
    "mean of {seeds} seeds of split, full model and classifier, [least, most]. Gain: of the worst digit over "
    "the unbalanced set, paired by seed, ± its standard error. {unit} of one seed: {seconds}."
)


class Images(NamedTuple):
    """Digits as a classifier takes them.

    Attributes:
        pixels: ``[images, 64]`` in [0, 1].
        digits: ``[images]``.
    """

    pixels: NDArray[np.float64]
    digits: NDArray[np.int64]

    def and_also(self, other: Images) -> Images:
        """Both."""
        return Images(*(np.concatenate(pair) for pair in zip(self, other, strict=True)))

    def take(self, rows: NDArray[np.int64]) -> Images:
        """Some of them, which may come several times."""
        return Images(self.pixels[rows], self.digits[rows])


def run(asked: Asked) -> None:
    """Cut three digits down to a tenth, draw what is missing, and train classifiers with and without it."""
    found, leading, seconds = list[dict[tuple[str, str], tuple[float, float]]](), list[float](), list[float]()
    seeds = asked.seeds or 3
    for seed in range(seeds):
        bench, few, many = _bench(asked, seed)
        bench.stage("fit", label="fit")
        bench.stage("guide", label="guide")
        wanted = ("--groups", ",".join(map(str, RARE)), "--num", str(many - few))
        bench.stage("balance", *wanted, *DRAWN, label="balance")
        record = read_json(bench.run.balanced_by(GUIDANCE) / "record.json")
        leading += [one["leading"] / one["checked"] for one in record["groups"]]
        seconds.append(bench.seconds("fit", "guide", "balance"))
        found.append(_accuracies(bench, seed))
    arms = list(dict.fromkeys(arm for arm, _ in found[0]))
    rows = [_row(arm, found) for arm in arms]
    notes = NOTES.format(
        rare=", ".join(map(str, RARE)),
        few=few,
        many=many,
        num=many - few,
        lead=f"{np.mean(leading):.0%} [{min(leading):.0%}, {max(leading):.0%}]",
        seeds=seeds,
        unit=unit().capitalize(),
        seconds=f"{np.mean(seconds):.0f}",
    )
    write_table(asked.docs, "balance", asked.command("balance"), rows, notes)


def _row(arm: str, found: list[dict[tuple[str, str], tuple[float, float]]]) -> dict[str, object]:
    row: dict[str, object] = {"trained on": arm}
    for name in CLASSIFIERS:
        worst, mean = zip(*(of_seed[arm, name] for of_seed in found), strict=True)
        gains = [one - of_seed[UNBALANCED, name][0] for one, of_seed in zip(worst, found, strict=True)]
        error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
        row[f"{name}: worst"] = f"{np.mean(worst):.1f} [{min(worst):.1f}, {max(worst):.1f}]"
        row[f"{name}: gain"] = "" if arm == UNBALANCED else f"{np.mean(gains):+.1f} ± {error:.1f}"
        row[f"{name}: mean"] = f"{np.mean(mean):.1f}"
    return row


def _accuracies(bench: Bench, seed: int) -> dict[tuple[str, str], tuple[float, float]]:
    """Accuracy of the worst and of the mean digit in %, by what was trained on and classifier."""
    every, split = _digits(), _split(seed)
    real, test = every.take(split.train), every.take(split.test)
    rng = np.random.default_rng(seed)
    folder = bench.run.balanced_by(GUIDANCE)
    manifest = pd.read_csv(folder / "manifest.csv")
    kept = manifest[manifest["kept"]]
    first = manifest[manifest["index"] < read_json(folder / "record.json")["config"]["num"]]
    # The rare ones as often as there are images with those drawn.
    most = np.bincount(real.digits).max()
    repeated = [rng.choice(np.flatnonzero(real.digits == digit), most) for digit in RARE]
    common = np.flatnonzero(~np.isin(real.digits, RARE))
    sets = {
        UNBALANCED: real,
        "rare ones repeated": real.take(np.concatenate([common, *repeated])),
        "with what was drawn and leads": real.and_also(_drawn(folder, kept)),
        "with all that was drawn first": real.and_also(_drawn(folder, first)),
        "as many real ones": real.and_also(every.take(split.missing)),
    }
    return {
        (arm, name): _accuracy(make(seed), images, test)
        for arm, images in sets.items()
        for name, make in CLASSIFIERS.items()
    }


def _accuracy(classifier: Any, train: Images, test: Images) -> tuple[float, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # all training images are right long before
        told = classifier.fit(*train).predict(test.pixels)
    right = told == test.digits
    each = [100 * float(right[test.digits == digit].mean()) for digit in range(10)]
    return min(each), statistics.mean(each)


class _Split(NamedTuple):
    """Rows of the digits.

    Attributes:
        train: What the full model and the classifiers see.
        test: What no model sees.
        missing: What the rare digits would have in a balanced set.
    """

    train: NDArray[np.int64]
    test: NDArray[np.int64]
    missing: NDArray[np.int64]


def _split(seed: int) -> _Split:
    targets, rng = load_digits().target, np.random.default_rng(seed)
    train, test, missing = [], [], []
    for digit in range(10):
        rows = rng.permutation(np.flatnonzero(targets == digit))
        many = round(TRAINED * len(rows))
        few = round(LEFT * many) if digit in RARE else many
        train.append(rows[:few])
        missing.append(rows[few:many])
        test.append(rows[many:])
    return _Split(*map(np.concatenate, (train, test, missing)))


def _bench(asked: Asked, seed: int) -> tuple[Bench, int, int]:
    """The run folder of a seed with its images, and how many there are of a rare digit and of any other."""
    folder, split = asked.runs / "balance" / str(seed), _split(seed)
    images, every = folder / "images", _digits()
    if not images.exists():
        with atomic_folder(images) as temporary:
            for row in split.train:
                path = temporary / str(every.digits[row]) / f"{row}.png"
                path.parent.mkdir(exist_ok=True)
                pixels = np.rint(255 * every.pixels[row]).astype(np.uint8)
                Image.fromarray(pixels.reshape(8, 8)).save(path)
    counts = np.bincount(every.digits[split.train])
    source = "--data.init_args.source"
    options = (
        *("-c", "digits.yaml", "--trainer.logger", "false", "--trainer.max_steps", str(STEPS)),
        *("--seed_everything", str(seed), source, "guda_lightning.data.ImageFolder"),
        *(f"{source}.init_args.path", str(images)),
    )
    few, many = (round(float(counts[which].mean())) for which in (list(RARE), [0, 1, 2, 4, 5, 6, 7]))
    return Bench(folder / "run", *options, steps=STEPS, size=asked.size), few, many


def _digits() -> Images:
    digits = load_digits()
    return Images(digits.data / 16, digits.target)


def _drawn(folder: Path, rows: pd.DataFrame) -> Images:
    """Pictures of a set."""
    pixels = [np.asarray(Image.open(folder / file), dtype=np.float64).ravel() / 255 for file in rows["file"]]
    return Images(np.array(pixels).reshape(-1, 64), rows["group"].to_numpy(np.int64))
