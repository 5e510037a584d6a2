"""Prompts by number."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from guda_lightning.diffusion.model import NO_PROMPT
from guda_lightning.latent.prompts import PromptTable


class Lengths:
    """Embeds a text as its length, and remembers what it encoded."""

    def __init__(self) -> None:
        self.encoded: list[list[str]] = []

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        self.encoded.append(list(texts))
        return {"states": torch.tensor([[float(len(text))] for text in texts])}


def test_prompts_are_numbered_in_the_order_they_are_met() -> None:
    encode = Lengths()
    table = PromptTable(encode)
    assert table.numbers(["bb", "a", "bb"]).tolist() == [1, 2, 1]
    assert table.numbers(["ccc", "a"]).tolist() == [3, 2]
    assert table.texts == ["", "bb", "a", "ccc"]
    assert len(table) == 4
    assert encode.encoded == [[""], ["bb", "a"], ["ccc"]]  # each once
    found = table(torch.tensor([3, NO_PROMPT, 1]))
    assert found["states"].tolist() == [[3.0], [0.0], [2.0]]


def test_what_is_asked_once_is_not_kept() -> None:
    encode, stored = Lengths(), Lengths()
    table = PromptTable(encode, stored)
    condition = table.once(["four", "x"])
    assert condition(torch.tensor([1, 0, 0]))["states"].tolist() == [[1.0], [4.0], [4.0]]
    assert table.texts == [""]
    assert (encode.encoded, stored.encoded) == ([["four", "x"]], [[""]])


def test_what_is_asked_again_is_not_encoded_again() -> None:
    encode = Lengths()
    table = PromptTable(encode)
    table.numbers(["known"])
    for _ in range(2):
        found = table.once(["new", "known", "new"])(torch.tensor([0, 1, 2]))
        assert found["states"].tolist() == [[3.0], [5.0], [3.0]]
    assert encode.encoded == [[""], ["known"], ["new"]]


def test_what_is_met_in_a_block_is_forgotten_after_it() -> None:
    encode = Lengths()
    table = PromptTable(encode)
    table.numbers(["known"])
    with pytest.raises(KeyboardInterrupt), table.forgetting():
        assert table.numbers(["known", "new"]).tolist() == [1, 2]
        assert table(torch.tensor([2]))["states"].tolist() == [[3.0]]
        raise KeyboardInterrupt
    assert table.texts == ["", "known"]
    assert table.numbers(["other"]).tolist() == [2]
    assert table(torch.tensor([1, 2]))["states"].tolist() == [[5.0], [5.0]]
