"""Other groupings of the handwritten digits, as metadata files."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from guda_lightning.storage.files import write_atomic


def digits(path: Path, classes: int) -> str:
    """The first classes alone; the other images are in no group."""
    return write(path, _of(load_digits().target, classes))


def split(path: Path, share: float, classes: int) -> str:
    """Every class split at random into two groups: ``3a``, a share of its images, and ``3b``, the others."""
    targets = load_digits().target
    rng = np.random.default_rng(0)
    names = np.full(len(targets), "", dtype="<U2")
    for digit in range(classes):
        members = rng.permutation(np.flatnonzero(targets == digit))
        names[members] = f"{digit}b"
        names[members[: math.ceil(share * len(members))]] = f"{digit}a"
    return write(path, names)


def split_some(path: Path, chosen: Sequence[int], classes: int) -> str:
    """Some classes split at random into equal groups such as ``3a`` and ``3b``; the others as they are."""
    targets = load_digits().target
    rng, names = np.random.default_rng(0), _of(targets, classes).astype("<U2")
    for digit in chosen:
        members = rng.permutation(np.flatnonzero(targets == digit))
        names[members] = [f"{digit}{'ab'[place % 2]}" for place in range(len(members))]
    return write(path, names)


def without(path: Path, digit: int, classes: int) -> str:
    """The first classes but for one, whose images are not among the data."""
    targets = load_digits().target
    return write(path, np.where(targets == digit, "", _of(targets, classes)))


def mislabelled(path: Path, classes: int, share: float = 0.05) -> str:
    """A share of all images in a wrong class, drawn at random."""
    targets = load_digits().target.copy()
    rng = np.random.default_rng(0)
    wrong = rng.permutation(len(targets))[: round(share * len(targets))]
    targets[wrong] = (targets[wrong] + rng.integers(1, 10, len(wrong))) % 10
    return write(path, _of(targets, classes))


def hashed(path: Path, number: int) -> str:
    """Random groups of about equal size."""
    order = np.random.default_rng(0).permutation(len(load_digits().target))
    return write(path, np.array([f"g{index % number:03d}" for index in order]))


def names(path: Path) -> list[str]:
    """Names of the groups in a metadata file, sorted."""
    with path.open(newline="") as file:
        return sorted({row["group"] for row in csv.DictReader(file)})


def _of(targets: np.ndarray, classes: int) -> np.ndarray:
    return np.where(targets < classes, targets.astype(str), "")


def write(path: Path, names: np.ndarray) -> str:
    """Write the group of every image; one with an empty name is in none."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["id", "group"])
    rows.writerows((index, name) for index, name in enumerate(names) if name)
    write_atomic(path, text.getvalue())
    return str(path)
