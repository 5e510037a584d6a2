from __future__ import annotations

import threading
from contextlib import closing

import pytest

from guda_lightning.attribution.prefetch import in_turn
from guda_lightning.errors import StoreError


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("guda-prefetch")]


def test_the_next_one_is_read_while_this_one_is_worked_with_and_no_other() -> None:
    begun = {key: threading.Event() for key in "abcd"}
    used: list[tuple[str, str]] = []

    def read(key: str) -> str:
        begun[key].set()
        return key.upper()

    def use(key: str, value: str) -> None:
        assert [k for k in "abcd" if begun[k].is_set()] == list("abcd"[: len(used) + 1])
        used.append((key, value))

    seen = []
    for number, key in enumerate(in_turn("abcd", read, use)):
        seen.append(key)
        for after in "abcd"[number + 1 : number + 2]:
            assert begun[after].wait(5)  # it would never begin if it waited for this one to be done
    assert seen == list("abcd")
    assert used == [("a", "A"), ("b", "B"), ("c", "C"), ("d", "D")]
    assert not readers()


def test_what_reading_raises_is_raised_where_it_would_be_used() -> None:
    error = StoreError("b is damaged", found="1", expected="2", fix="3")
    read: list[str] = []

    def broken(key: str) -> None:
        read.append(key)
        if key == "b":
            raise error

    seen = []
    with pytest.raises(StoreError) as raised:
        for key in in_turn("abc", broken, lambda key, value: None):
            seen.append(key)
    assert raised.value is error
    assert (seen, read) == (["a"], ["a", "b"])
    assert not readers()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ValueError])
def test_nothing_goes_on_after_an_interrupt_or_an_error(kind: type[BaseException]) -> None:
    read: list[str] = []
    with pytest.raises(kind), closing(in_turn("abc", read.append, lambda key, value: None)) as keys:
        for _ in keys:
            raise kind
    assert not readers()
    assert read in (["a"], ["a", "b"])


def test_nothing_to_read_is_nothing_to_do() -> None:
    assert list(in_turn((), lambda key: key, lambda key, value: None)) == []
