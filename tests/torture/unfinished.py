"""Damage to what a killed command has left to go on from: checkpoints, parts of tables, drawn images."""

from __future__ import annotations

import random
from collections.abc import Sequence

from guda_lightning.progress_bar import progress_bar
from torture import programs
from torture.contents import LOCKS, contents
from torture.damage import Damage, kind_of
from torture.kills import KILLED, Kill, differences
from torture.tally import Tally
from torture.workshop import Workshop

WELL = ("refused", "made again", "nothing left to damage", "whole, so not read again")


def strike(shop: Workshop, kill: Kill) -> tuple[str, str, list[str]]:
    """Kill a command, damage a file that it left, repeat it: kind of the file, outcome, what is wrong."""
    number, command = shop.restored(kill.step)
    before, after = contents(shop.snapshot(number)), contents(shop.snapshot(number + 1))
    code, _ = shop.start(programs.killed, command, kill.kind, kill.number)
    left = sorted(path for path in shop.run.rglob("*") if path.is_file() and path.stat().st_size)
    names = [path.relative_to(shop.run).as_posix() for path in left]
    new = [name for name in names if name not in before and not name.startswith(LOCKS)]
    if code != KILLED or not new:
        return "nothing", WELL[2], []
    damage = Damage(random.Random(str(kill)).choice(new), kill.number)
    path = shop.run / damage.name
    damaged = damage.done(path.read_bytes())
    path.write_bytes(damaged)
    code, out = shop.start(programs.guda, command)
    if code == 2 and "error: " in out and "Traceback" not in out:
        return kind_of(damage.name), WELL[0], []
    wrong = [f"{damage.name}: the command ended with {code}: {out[-1500:]}"] if code else []
    # What was whole before the kill is not read again: that it stays is harmless if nothing else differs, and
    # the part `damage` tries whether its readers refuse it.
    stays = path.is_file() and path.read_bytes() == damaged
    fine = {f"other contents than undisturbed: {damage.name}"} if stays else set()
    wrong += [f"{damage.name}: {one}" for one in differences(after, contents(shop.run)) if one not in fine]
    return kind_of(damage.name), "failed" if wrong else WELL[3 if stays else 1], wrong


def unfinished(shop: Workshop, given: Sequence[Kill]) -> Tally:
    """Strike at each moment; rows are kinds of files."""
    tally = Tally("unfinished", WELL)
    with progress_bar("torture: unfinished", "files", len(given), delay=2) as bar:
        for kill in given:
            kind, outcome, wrong = strike(shop, kill)
            tally.add(kind, outcome, str(kill), wrong)
            bar.update()
    return tally
