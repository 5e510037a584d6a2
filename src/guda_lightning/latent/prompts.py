"""``PromptTable``: prompts by number: text-conditional models are called like label-conditional ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

Encode = Callable[[Sequence[str]], Mapping[str, Tensor]]
_REMEMBERED = 1024  # prompts that are not in the table: 240 MB of Stable Diffusion's embeddings


class PromptTable:
    """Distinct prompts, each with a number, and their embeddings on the CPU.

    Number 0 is the empty prompt, which a model without its condition is called with.

    Args:
        encode: Turns texts into embeddings, ``[texts, ...]`` each, by the names of the denoiser's arguments.
        stored: The same for texts that will be met again, from disk if they were before; None is ``encode``.

    Attributes:
        texts: The prompts in the order of their numbers.
    """

    def __init__(self, encode: Encode, stored: Encode | None = None) -> None:
        self._encode, self._stored = encode, stored or encode
        self.texts: list[str] = []
        self._number: dict[str, int] = {}
        self._embeddings: dict[str, Tensor] = {}
        self._last: dict[str, dict[str, Tensor]] = {}
        self.numbers([""])

    def __len__(self) -> int:
        return len(self.texts)

    def __call__(self, numbers: Tensor) -> dict[str, Tensor]:
        """Embeddings of prompts by their numbers, ``[batch]`` int64."""
        rows = numbers.cpu()
        return {name: values[rows] for name, values in self._embeddings.items()}

    def numbers(self, texts: Sequence[str]) -> Tensor:
        """Numbers of prompts, ``[texts]`` int64; those that are new are encoded first."""
        new = [text for text in dict.fromkeys(texts) if text not in self._number]
        if new:
            for name, values in self._stored(new).items():
                known = self._embeddings.get(name, values[:0])
                self._embeddings[name] = torch.cat([known, values])
            self._number |= {text: len(self.texts) + place for place, text in enumerate(new)}
            self.texts += new
        return torch.tensor([self._number[text] for text in texts], dtype=torch.int64)

    @contextmanager
    def forgetting(self) -> Iterator[None]:
        """Forget the prompts that are first met inside the block when it ends, and their numbers."""
        known, embeddings = len(self.texts), dict(self._embeddings)
        try:
            yield
        finally:
            for text in self.texts[known:]:
                del self._number[text]
            del self.texts[known:]
            self._embeddings = embeddings

    def once(self, texts: Sequence[str]) -> Callable[[Tensor], dict[str, Tensor]]:
        """A condition of these prompts alone, numbered from 0.

        Those that the table does not have do not enter it; the last ones of them are remembered.
        """
        new = [text for text in dict.fromkeys(texts) if text not in self._number and text not in self._last]
        if new:
            rows = self._encode(new)
            for place, text in enumerate(new):
                self._last[text] = {name: values[place] for name, values in rows.items()}
        found = [self._last[text] if text in self._last else self._row(text) for text in texts]
        while len(self._last) > _REMEMBERED:
            del self._last[next(iter(self._last))]
        embeddings = {name: torch.stack([row[name] for row in found]) for name in found[0]}
        return lambda numbers: {name: values[numbers.cpu()] for name, values in embeddings.items()}

    def _row(self, text: str) -> dict[str, Tensor]:
        """The embeddings of a prompt of the table."""
        return {name: values[self._number[text]] for name, values in self._embeddings.items()}
