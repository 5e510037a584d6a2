"""``make torture``: everything that takes minutes; ``make torture ARGS="kills --count 50"`` one part of it.

Parts are kills of commands, damage to stored and to unfinished files, fuzzed input, hostile surroundings,
and the tests that are marked ``torture``. What they find is printed with the command that repeats it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch

from torture import fuzz as fuzzed
from torture import surroundings as around
from torture.damage import Damage, damage, damages
from torture.kills import Kill, kills, moments
from torture.programs import import_everything
from torture.tally import Tally
from torture.unfinished import unfinished
from torture.workshop import Workshop
from warm import Server

COUNTS = {"kills": 200, "damage": 2000, "unfinished": 200, "fuzz": 10_000, "surroundings": 100, "tests": 0}


def main(arguments: list[str] | None = None) -> int:
    """Torture; 1 where anything failed."""
    parser = argparse.ArgumentParser("make torture", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(COUNTS))
    parser.add_argument("--count", type=int, help="how many of a part, where not " + str(COUNTS))
    parser.add_argument("--seed", type=int, default=0, help="the same seed tries the same")
    parser.add_argument("--at", nargs="+", help="try these alone, which a failure was named by")
    parser.add_argument("--folder", type=Path, help="where to work, and to keep the story for the next time")
    parser.add_argument("--write", action="store_true", help="write the counts into docs/reliability.md")
    chosen = parser.parse_args(arguments)
    parts = chosen.parts or list(COUNTS)
    for part in parts:
        if part not in COUNTS:
            parser.error(f"no part {part!r}: choose from {', '.join(COUNTS)}")
    if chosen.at and len(parts) != 1:
        parser.error("--at needs the one part that the failure is of")
    failed = 0
    with ExitStack() as stack:
        import_everything()
        shop = _workshop(stack, chosen.folder)
        for part in parts:
            if part == "tests":
                failed += _tests() != 0
                continue
            count = COUNTS[part] if chosen.count is None else chosen.count
            tally = _run(part, shop, count, chosen.seed, chosen.at)
            for row in tally.rows():
                print("  ".join(f"{name} {value}" for name, value in row.items()))
            print(f"{part}: {tally.total} tried from seed {chosen.seed}, {len(tally.failures)} failures")
            if chosen.write:
                tally.write(f'make torture ARGS="{part} --count {count} --seed {chosen.seed}"')
            failed += len(tally.failures)
    return min(failed, 1)


def _workshop(stack: ExitStack, folder: Path | None) -> Workshop:
    server = Server()
    stack.callback(server.close)
    torch.set_num_threads(1)
    folder = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
    folder.mkdir(parents=True, exist_ok=True)
    return Workshop(server, folder)


def _run(part: str, shop: Workshop, count: int, seed: int, at: list[str] | None) -> Tally:
    forms: dict[str, Callable[[], Tally]] = {
        "kills": lambda: kills(shop, [Kill.parse(one) for one in at] if at else moments(shop, count, seed)),
        "damage": lambda: damage(
            shop, [Damage.parse(one) for one in at] if at else damages(shop, count, seed)
        ),
        "unfinished": lambda: unfinished(
            shop, [Kill.parse(one) for one in at] if at else moments(shop, count, seed)
        ),
        "fuzz": lambda: fuzzed.fuzz(
            shop, [fuzzed.parse(one) for one in at] if at else fuzzed.chosen(count, seed)
        ),
        "surroundings": lambda: around.surroundings(
            shop, [around.parse(one) for one in at] if at else around.chosen(shop, count, seed)
        ),
    }
    return forms[part]()


def _tests() -> int:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--numprocesses",
        "auto",
        "--dist",
        "worksteal",
        "-m",
        "torture",
    ]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true", HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
    sys.exit(main())
