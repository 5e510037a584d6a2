"""Surroundings that are rare: a clock set back, ASCII, a full disk, a read-only folder, a dead rank."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from guda_lightning.progress_bar import progress_bar
from torture import programs
from torture.contents import contents
from torture.kills import differences, lost
from torture.tally import Tally
from torture.workshop import Workshop

ROOM = 64 * 2**10  # KiB of the disk that is about to be full, of which a run needs a part


class Skipped(Exception):
    """What this machine cannot try, and why."""


def clock(shop: Workshop, step: str, seed: int) -> list[str]:
    """A command whose clock goes backwards makes what it makes else, and no negative duration."""
    number, command = shop.restored(step)
    code, out = shop.start(programs.backwards, command)
    wrong = [f"it ended with {code}: {out[-1500:]}"] if code else []
    wrong += differences(contents(shop.snapshot(number + 1)), contents(shop.run))
    for path in shop.run.rglob("*.json"):
        negative = [name for name, value in _numbers(json.loads(path.read_text("utf-8"))) if value < 0]
        wrong += [f"{path.name}: {name} is negative" for name in negative if "second" in name]
    return wrong


def _numbers(value: object, name: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _numbers(one, str(key))
    elif isinstance(value, list):
        for one in value:
            yield from _numbers(one, name)
    elif isinstance(value, int | float):
        yield name, float(value)


def ascii_only(shop: Workshop, step: str, seed: int) -> list[str]:
    """A terminal that has ASCII alone, and a folder whose name has more: a Python of its own."""
    _, command = shop.restored(step)
    folder = shop.run.with_name("läufe 日本")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(shop.run, folder)
    arguments = [argument.replace(str(shop.run), str(folder)) for argument in command]
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "guda_lightning", *arguments],
        env=environment,
        capture_output=True,
        check=False,
    )
    shutil.rmtree(folder)
    said = (done.stdout + done.stderr).decode("utf-8", "replace")
    return [f"it ended with {done.returncode}: {said[-1500:]}"] if done.returncode else []


def full_disk(shop: Workshop, step: str, seed: int) -> list[str]:
    """A disk with room for a random share of what a command writes; then a larger one."""
    with _mounted(shop, ["-t", "tmpfs", "-o", f"size={ROOM}k", "tmpfs", str(shop.run.parent)]):
        number, command = shop.restored(step)
        before, after = (contents(shop.snapshot(at)) for at in (number, number + 1))
        grown = _size(shop.snapshot(number + 1)) - _size(shop.snapshot(number))
        room = random.Random(seed).randrange(4, max(8, grown // 1024))
        _remount(shop, f"size={shutil.disk_usage(shop.run).used // 1024 + room}k")
        code, out = shop.start(programs.guda, command)
        wrong = (
            []
            if code == 0 or (code == 2 and "the disk is full" in out)
            else [f"ended with {code}: {out[-1500:]}"]
        )
        wrong += lost(before, after, contents(shop.run))
        _remount(shop, f"size={ROOM}k")
        code, out = shop.start(programs.guda, command)
        wrong += [f"with room it ended with {code}: {out[-1500:]}"] if code else []
        return [*wrong, *differences(after, contents(shop.run))]


def read_only(shop: Workshop, step: str, seed: int) -> list[str]:
    """A run folder that cannot be written, as in an archive: what reads works, the rest says so."""
    _, command = shop.restored(step)
    before = contents(shop.run)
    with _mounted(shop, ["--bind", str(shop.run), str(shop.run)], shop.run):
        _remount(shop, "ro,bind", shop.run)
        code, out = shop.start(programs.guda, command)
    wrong = [] if code in (0, 2) and "Traceback" not in out else [f"it ended with {code}: {out[-1500:]}"]
    return [*wrong, *differences(before, contents(shop.run))]


def dead_rank(shop: Workshop, step: str, seed: int) -> list[str]:
    """Two processes train, one is killed; the other ends, and both finish what they began."""
    number, command = shop.restored(step)
    both = [*command, "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    ended = _two(shop, both, [0, 0])
    if any(code for code, _ in ended):
        return [f"undisturbed, two ranks ended with {ended}"]
    whole = contents(shop.run)
    events = shop.work[step]["event"]
    shop.restore(number)
    rng = random.Random(seed)
    rank, at = rng.randrange(2), rng.randrange(events // 2, events)
    ended = _two(shop, both, [at * (one == rank) for one in (0, 1)])
    wrong = [f"rank {1 - rank} ended with {ended[1 - rank]}"] if ended[1 - rank][0] not in (0, 2) else []
    again = _two(shop, both, [0, 0])
    wrong += [
        f"again, rank {rank} ended with {code}: {out[-1500:]}"
        for rank, (code, out) in enumerate(again)
        if code
    ]
    return [*wrong, *differences(whole, contents(shop.run))]


def _two(shop: Workshop, command: list[str], moments: list[int]) -> list[tuple[int, str]]:
    """How two ranks end, each killed at an audit event; at 0, never."""
    with socket.create_server(("localhost", 0)) as free:
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": "2", "NODE_RANK": "0"}
    with ExitStack() as stack:
        started = [
            stack.enter_context(
                shop.server.process(
                    shop.folder / f"{rank}.log",
                    programs.killed,
                    command,
                    "event",
                    moments[rank],
                    **shared,
                    LOCAL_RANK=str(rank),
                )
            )
            for rank in (0, 1)
        ]
        return [(process.wait(), process.log.read_text("utf-8", "replace")) for process in started]


@contextmanager
def _mounted(shop: Workshop, arguments: list[str], place: Path | None = None) -> Iterator[None]:
    place = place or shop.run.parent
    if os.geteuid() != 0:
        raise Skipped("no right to mount a disk: run as root")
    place.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Skipped(f"mounting fails: {done.stderr.strip()}")
    try:
        yield
    finally:
        # Lazily, for weights that are still mapped into memory keep their files open.
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def _remount(shop: Workshop, options: str, place: Path | None = None) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(place or shop.run.parent)], check=True)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


Try = Callable[[Workshop, str, int], list[str]]
TRIES: dict[str, tuple[Try, tuple[str, ...]]] = {
    "clock set back": (clock, ("fit", "sample", "unlearn", "attribute", "evaluate", "report")),
    "ASCII": (ascii_only, ("evaluate", "curate", "report")),
    "full disk": (full_disk, ()),
    "read-only folder": (read_only, ()),
    "dead rank": (dead_rank, ("fit",)),
}


def parse(text: str) -> tuple[str, str, int]:
    """Read what a failure was named by."""
    kind, step, seed = text.split(":")
    return kind, step, int(seed)


def chosen(shop: Workshop, count: int, seed: int) -> list[tuple[str, str, int]]:
    """So many tries, each a kind, a step of the story and a seed, in turn over the kinds."""
    rng, found = random.Random(seed), list[tuple[str, str, int]]()
    for number in range(count):
        kind = list(TRIES)[number % len(TRIES)]
        steps = TRIES[kind][1] or tuple(step.name for step in shop.story)
        found.append((kind, rng.choice(steps), seed + number))
    return found


def surroundings(shop: Workshop, given: Sequence[tuple[str, str, int]]) -> Tally:
    """Try them; rows are kinds."""
    _ = shop.finished
    tally = Tally("surroundings", ("held", "not tried here"))
    with progress_bar("torture: surroundings", "tries", len(given), delay=2) as bar:
        for kind, step, seed in given:
            try:
                wrong = TRIES[kind][0](shop, step, seed)
                tally.add(kind, "failed" if wrong else "held", f"{kind}:{step}:{seed}", wrong)
            except Skipped as skipped:
                tally.add(f"{kind}, {skipped}", "not tried here")
            bar.update()
    return tally
