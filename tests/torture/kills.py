"""Commands that are killed at renames and at random moments, and given again."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from guda_lightning.progress_bar import progress_bar
from torture import programs
from torture.contents import contents
from torture.tally import Tally
from torture.workshop import Workshop

KILLED = -9


@dataclass(frozen=True)
class Kill:
    """A moment of a command.

    Attributes:
        step: Name of the command in the story.
        kind: ``before`` or ``after`` a rename, or at any audit ``event``.
        number: Which one, from 1.
    """

    step: str
    kind: str
    number: int

    @classmethod
    def parse(cls, text: str) -> Kill:
        """Read what ``str`` wrote."""
        step, kind, number = text.rsplit(":", 2)
        return cls(step, kind, int(number))

    def __str__(self) -> str:
        return f"{self.step}:{self.kind}:{self.number}"


def moments(shop: Workshop, count: int, seed: int) -> list[Kill]:
    """So many moments, spread evenly over the story: half of them at renames, each once, half anywhere."""
    _ = shop.finished  # counts the work of every step
    rng, found = random.Random(seed), list[Kill]()
    each = {step.name: _moments(shop, step.name, rng) for step in shop.story}
    while len(found) < count:
        found += [next(kills) for kills in each.values()]
    return found[:count]


def _moments(shop: Workshop, step: str, rng: random.Random) -> Iterator[Kill]:
    work = shop.work[step]
    renames = [Kill(step, kind, n + 1) for n in range(work["rename"]) for kind in ("before", "after")]
    rng.shuffle(renames)
    while True:
        if renames:
            yield renames.pop()
        yield Kill(step, "event", rng.randint(1, work["event"]))


def strike(shop: Workshop, kill: Kill) -> tuple[int, list[str]]:
    """Kill a command and give it again; how it ended, and what is wrong after that."""
    number, command = shop.restored(kill.step)
    before, after = (contents(shop.snapshot(at)) for at in (number, number + 1))
    ended, out = shop.start(programs.killed, command, kill.kind, kill.number)
    wrong = [] if ended in (KILLED, 0) else [f"struck, it ended with {ended}: {_end(out)}"]
    wrong += lost(before, after, contents(shop.run))
    code, out = shop.start(programs.guda, command)
    if code:
        return ended, [*wrong, f"the same command again ended with {code}: {_end(out)}"]
    return ended, [*wrong, *differences(after, contents(shop.run))]


def lost(before: dict[str, str], after: dict[str, str], found: dict[str, str]) -> Iterator[str]:
    """What was complete and is neither as it was nor as it should become."""
    for name, said in before.items():
        if found.get(name) not in (said, after.get(name)):
            yield f"lost by the kill: {name}" if name not in found else f"changed by the kill: {name}"


def differences(expected: dict[str, str], found: dict[str, str]) -> Iterator[str]:
    """How a folder differs from what it should be; a command that was killed at its end is noted twice."""
    for name in sorted(found.keys() - expected.keys()):
        if not name.startswith("history/"):
            yield f"left over: {name}"
    for name in sorted(expected.keys() - found.keys()):
        yield f"missing after the repetition: {name}"
    for name in sorted(name for name in expected.keys() & found.keys() if expected[name] != found[name]):
        yield f"other contents than undisturbed: {name}"


def _end(out: str) -> str:
    return out.strip()[-1500:]


def kills(shop: Workshop, given: Sequence[Kill]) -> Tally:
    """Strike at each moment; rows are commands."""
    tally = Tally("kills", ("killed and repeated", "at its end before"))
    with progress_bar("torture: kills", "kills", len(given), delay=2) as bar:
        for kill in given:
            code, wrong = strike(shop, kill)
            well = tally.outcomes[0] if code == KILLED else tally.outcomes[1]
            tally.add(kill.step, "failed" if wrong else well, str(kill), wrong)
            bar.update()
    return tally
