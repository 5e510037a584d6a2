"""Flipped bits, lost ends and zeroed sectors in every kind of file that a run folder holds."""

from __future__ import annotations

import json
import random
import re
import shutil
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from guda_lightning.cli.reasons import explained
from guda_lightning.progress_bar import progress_bar
from torture import readers
from torture.tally import Tally
from torture.workshop import Workshop

BATCH = 50  # in one process
WELL = ("no effect", "refused", "discarded with a note")
ORDER = (*WELL, "other numbers", "traceback", "crash")
SECTOR = 512
EDGE = 2048  # headers and footers are short, and half of the damage is there


@dataclass(frozen=True)
class Damage:
    """One damage to one file.

    Attributes:
        name: Of the file in the run folder.
        seed: Of where and how.
    """

    name: str
    seed: int

    @classmethod
    def parse(cls, text: str) -> Damage:
        """Read what ``str`` wrote."""
        name, _, seed = text.rpartition(":")
        return cls(name, int(seed))

    def __str__(self) -> str:
        return f"{self.name}:{self.seed}"

    def done(self, data: bytes) -> bytes:
        """The contents of a file, damaged: six of eight times a bit flips."""
        rng, length = random.Random(f"{self.seed}"), len(data)
        edge = min(EDGE, length)
        places = (
            rng.randrange(length),
            rng.randrange(length),
            rng.randrange(edge),
            length - 1 - rng.randrange(edge),
        )
        at, kind = rng.choice(places), rng.randrange(8)
        if kind == 0:
            return data[:at]
        if kind == 1:
            return data[: at // SECTOR * SECTOR] + bytes(SECTOR) + data[at // SECTOR * SECTOR + SECTOR :]
        flipped = bytearray(data)
        flipped[at] ^= 1 << rng.randrange(8)
        return bytes(flipped)


def kind_of(name: str) -> str:
    """Files of one kind differ by numbers and hashes alone."""
    return re.sub(
        r"[0-9a-f]{8,}|\d+|(?<=queries/)[^/]+(?=/)|(?<=/)(sample|query|own|[0-9]+)[^/]*(?=\.png)", "*", name
    )


def damages(shop: Workshop, count: int, seed: int) -> list[Damage]:
    """So many, spread evenly over the kinds of files that are found in the finished run folder."""
    rng, kinds = random.Random(seed), dict[str, list[str]]()
    for path in sorted(shop.finished.rglob("*")):
        name = path.relative_to(shop.finished).as_posix()
        if path.is_file() and path.stat().st_size and readers.readers_of(name):
            kinds.setdefault(kind_of(name), []).append(name)
    order = sorted(kinds)
    return [Damage(rng.choice(kinds[order[number % len(order)]]), seed + number) for number in range(count)]


def damage(shop: Workshop, given: Sequence[Damage]) -> Tally:
    """Damage files, one at a time, and read them; rows are kinds of files."""
    given = sorted(given, key=lambda one: one.name)
    whole, results = shop.folder / "whole", shop.folder / "results.jsonl"
    shutil.rmtree(whole, ignore_errors=True)
    shutil.copytree(shop.finished, whole)
    tally = Tally("damage", WELL)
    with progress_bar("torture: damage", "damaged files", len(given), delay=2) as bar:
        while given:
            batch = given[:BATCH]
            shutil.rmtree(shop.run, ignore_errors=True)
            shutil.copytree(whole, shop.run)
            results.write_text("")
            code, out = shop.start(read_all, batch, shop.run, whole, results)
            lines = [json.loads(line) for line in results.read_text("utf-8").splitlines()]
            if len(lines) < len(batch):  # it crashed, or hung
                lines.append(["crash", f"ended with {code}: {out[-1000:]}"])
            for one, (outcome, text) in zip(batch, lines, strict=False):
                tally.add(kind_of(one.name), outcome, str(one), [f"{outcome}: {text}"])
            given = given[len(lines) :]
            bar.update(len(lines))
    return tally


def read_all(given: list[Damage], run: Path, whole: Path, results: Path) -> int:
    """Damage, read and mend files in turn; a line of the results for each (a program of a process)."""
    good: dict[tuple[object, str], str] = {}
    with results.open("a", encoding="utf-8") as file:
        for one in given:
            path, original = run / one.name, (whole / one.name).read_bytes()
            used = readers.readers_of(one.name)
            for reader in used:
                key = reader, one.name if reader in PER_FILE else ""
                if key not in good:
                    good[key] = readers.digest(reader(run, path))
            path.write_bytes(one.done(original))
            expected = [good[reader, one.name if reader in PER_FILE else ""] for reader in used]
            outcome = _worst(
                [_outcome(reader, run, path, value) for reader, value in zip(used, expected, strict=True)]
            )
            file.write(json.dumps(outcome) + "\n")
            file.flush()
            _mend(run, whole)
    return 0


PER_FILE = (readers.queries, readers.squared_errors)


def _worst(outcomes: list[tuple[str, str]]) -> tuple[str, str]:
    return max(outcomes, key=lambda one: ORDER.index(one[0]))


def _outcome(reader: readers.Read, run: Path, path: Path, expected: str) -> tuple[str, str]:
    try:
        value = reader(run, path)
    except Exception as error:
        refused = explained(error)
        return ("refused", str(refused)) if refused else ("traceback", traceback.format_exc()[-1500:])
    if readers.digest(value) == expected:
        return "no effect", ""
    name = path.name if path.suffix != ".png" else path.parent.name
    noted = name in repr(value) and re.search("damaged|cannot be read", repr(value)) is not None
    return ("discarded with a note" if noted else "other numbers"), f"{getattr(reader, '__name__', reader)}"


def _mend(run: Path, whole: Path) -> None:
    """Put back what a reader or the damage has changed; nothing else, which takes longer."""
    files = {path.relative_to(whole): path for path in whole.rglob("*") if path.is_file()}
    for path in [path for path in run.rglob("*") if path.is_file()]:
        if path.relative_to(run) not in files:
            path.unlink()
    for name, path in files.items():
        mine = run / name
        if not mine.is_file() or mine.read_bytes() != path.read_bytes():
            mine.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, mine)
