"""Mutated files and configurations (fuzzing.py), each of which is accepted or refused."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from fuzzing import KINDS, attempt
from guda_lightning.progress_bar import progress_bar
from torture.tally import Tally

HANG = 60  # seconds of one input, which takes far less than one


def chosen(count: int, seed: int) -> list[tuple[str, int]]:
    """So many inputs, of the kinds in turn."""
    names = list(KINDS)
    return [(names[number % len(names)], seed + number) for number in range(count)]


def parse(text: str) -> tuple[str, int]:
    """Read what a failure was named by."""
    kind, _, seed = text.rpartition(":")
    return kind, int(seed)


def fuzz(given: Sequence[tuple[str, int]], limit: int = HANG) -> Tally:
    """Try inputs; rows are kinds."""
    tally = Tally("fuzz", ("accepted", "refused"))
    with progress_bar("torture: fuzz", "inputs", len(given), delay=2) as bar:
        for kind, seed in given:
            with tempfile.TemporaryDirectory() as folder:
                result = attempt(KINDS[kind], seed, Path(folder), limit)
            outcome = result if result in tally.outcomes else "failed"
            tally.add(kind, outcome, f"{kind}:{seed}", [result])
            bar.update()
    return tally
