"""A slice of ``make torture``: the same few moments, damages and surroundings every time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from torture.contents import contents
from torture.damage import Damage, damage, damages
from torture.kills import Kill, differences, kills, lost
from torture.programs import import_everything
from torture.readers import readers_of
from torture.story import STORY
from torture.surroundings import surroundings
from torture.workshop import Workshop
from warm import Server

import_everything()  # before the server is forked
SLICE = tuple(step for step in STORY if step.name in ("fit", "sample", "unlearn", "attribute"))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # as the children


@pytest.fixture
def shop(shared: Callable[[str, Callable[[Path], None]], Path], warm: Server) -> Iterator[Workshop]:
    """The short story, told once for all workers, of which one works on it at a time."""

    def make(folder: Path) -> None:
        _ = Workshop(warm, folder, SLICE).finished

    folder = shared("torture", make)
    with FileLock(folder.with_suffix(".busy")):
        yield Workshop(warm, folder, SLICE)


@pytest.mark.parametrize("kill", ["fit:before:5", "unlearn:event:40000", "attribute:after:9"])
def test_what_is_killed_and_repeated_equals_what_was_not(shop: Workshop, kill: str) -> None:
    tally = kills(shop, [Kill.parse(kill)])
    assert tally.failures == []
    assert tally.counts[kill.partition(":")[0]] == {"killed and repeated": 1}


def test_damage_is_never_read_as_good(shop: Workshop) -> None:
    tally = damage(shop, damages(shop, 40, seed=0))
    assert tally.failures == []
    assert tally.total == 40


@pytest.mark.parametrize("kind", ["clock set back", "full disk"])
def test_surroundings_are_held_or_named(shop: Workshop, kind: str) -> None:
    assert surroundings(shop, [(kind, "attribute", 0)]).failures == []


def test_the_harness_sees_what_it_looks_for(shop: Workshop) -> None:
    """A file that is lost, left over or other; and damage that a reader takes for good."""
    shop.restore(len(SLICE))
    whole = contents(shop.run)
    table = shop.run / "scores" / "retrack-0.parquet"
    table.rename(table.with_name("moved.parquet"))
    (shop.run / "queries" / "sample-0.png").write_bytes(b"other")
    found = contents(shop.run)
    assert list(lost(whole, whole, found)) == [
        "changed by the kill: queries/sample-0.png",
        "lost by the kill: scores/retrack-0.parquet",
    ]
    assert list(differences(whole, found)) == [
        "left over: scores/moved.parquet",
        "missing after the repetition: scores/retrack-0.parquet",
        "other contents than undisturbed: queries/sample-0.png",
    ]


def test_a_file_that_nobody_has_told_the_harness_of_fails() -> None:
    with pytest.raises(LookupError, match=r"^new/x\.bin: tell the harness how it is read, in READERS of "):
        readers_of("new/x.bin")


def test_the_same_seed_damages_alike() -> None:
    data = bytes(range(256)) * 20
    same = Damage("a.json", 7)
    assert same.done(data) == Damage.parse(str(same)).done(data) != data
    assert len({Damage("a.json", seed).done(data) for seed in range(50)}) > 45
