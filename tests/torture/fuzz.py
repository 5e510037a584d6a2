"""Mutated files and configurations (fuzzing.py), each of which is accepted or refused."""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from contextvars import copy_context
from pathlib import Path

from fuzzing import KINDS, attempt
from guda_lightning.progress_bar import progress_bar
from torture.tally import Tally
from torture.workshop import Workshop

BATCH = 200  # inputs of one process: libraries keep a little of each until their process ends
HANG = 300.0  # seconds of one input, which takes one or two, and some more where others use the machine


def chosen(count: int, seed: int) -> list[tuple[str, int]]:
    """So many inputs, of the kinds in turn."""
    names = list(KINDS)
    return [(names[number % len(names)], seed + number) for number in range(count)]


def parse(text: str) -> tuple[str, int]:
    """Read what a failure was named by."""
    kind, _, seed = text.rpartition(":")
    return kind, int(seed)


def fuzz(shop: Workshop, given: Sequence[tuple[str, int]], limit: float = HANG) -> Tally:
    """Try inputs; rows are kinds."""
    tally = Tally("fuzz", ("accepted", "refused"))
    results = shop.folder / "results.jsonl"
    with progress_bar("torture: fuzz", "inputs", len(given), delay=2) as bar:
        while tally.total < len(given):
            batch = given[tally.total :][:BATCH]
            results.write_bytes(b"")
            code, out = shop.start(attempts, batch, results, limit)
            found = [json.loads(line) for line in results.read_text("utf-8").splitlines()]
            if code:  # of the input that ended the process, or hung
                found.append(f"exit status {code}\n{out}")
            for (kind, seed), result in zip(batch, found, strict=False):
                outcome = result if result in tally.outcomes else "failed"
                tally.add(kind, outcome, f"{kind}:{seed}", [result])
                bar.update()
    return tally


def attempts(given: Sequence[tuple[str, int]], results: Path, limit: float) -> None:
    """Try inputs in turn; a line of results for each."""
    os.fsync = lambda file: None  # no power cut is tried here
    gc.freeze()  # what is imported, so that collecting the rest takes milliseconds
    with results.open("w", encoding="utf-8") as file:
        for kind, seed in given:
            with tempfile.TemporaryDirectory(dir=results.parent) as folder:
                # A thread in C, which also ends what never returns to Python.
                faulthandler.dump_traceback_later(limit, exit=True, file=sys.__stderr__)
                # jsonargparse keeps its last parser in the context, and that its model, of gigabytes perhaps.
                result = copy_context().run(attempt, KINDS[kind], seed, Path(folder))
                faulthandler.cancel_dump_traceback_later()
            gc.collect()
            file.write(json.dumps(result) + "\n")
            file.flush()
