"""Anchor prompts of forget samples: one class for each strategy of ``Anchor``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

import numpy as np
import torch
from torch import Tensor

from guda_lightning.data import PromptParts, PromptTemplate, UnlearnDataModule
from guda_lightning.diffusion.module import Noised
from guda_lightning.errors import DataError
from guda_lightning.functional.anchors import style_probabilities, style_prototype
from guda_lightning.latent.clip import ClipText
from guda_lightning.latent.prompts import PromptTable


class AnchorPrompts(ABC):
    """Draws anchor prompts with torch's generator."""

    @abstractmethod
    def __call__(self, noised: Noised) -> list[str]:
        """An anchor prompt for each forget sample."""


class Matched(AnchorPrompts):
    """Prompts of the same picture in another style.

    Args:
        data: The training data, whose sample ids differ in the name of a group.

    Raises:
        DataError: A picture to forget is in no other style.
    """

    def __init__(self, data: UnlearnDataModule) -> None:
        self._prompts = data.parent.sample_prompts
        names = {_plain(name) for name in data.grouping.names}
        ids = data.parent.ids
        same = defaultdict(list)
        for row in data.retain.tolist():
            same[_without(ids[row], names)].append(row)
        self._matches = {row: same[_without(ids[row], names)] for row in data.forget.tolist()}
        alone = [ids[row] for row, matches in self._matches.items() if not matches]
        if alone:
            raise DataError(
                f"{len(alone)} of {len(self._matches)} pictures to forget are in no other style",
                found=f"'{alone[0]}', and no id that differs from it in the name of the group alone",
                expected="ids such as 'Van_Gogh/Dogs/3.jpg' and 'Cubism/Dogs/3.jpg'",
                fix="name the samples so, or take another strategy",
            )

    def __call__(self, noised: Noised) -> list[str]:
        """The prompt of one match of each sample."""
        rows = [] if noised.rows is None else noised.rows.tolist()
        choices = [self._matches[row] for row in rows]
        return [self._prompts[rows[int(torch.randint(len(rows), ()))]] for rows in choices]


class Styleless(AnchorPrompts):
    """The content of a prompt, without words for a style.

    Args:
        data: The training data with its prompts.
        table: The prompts by their numbers.
        template: How prompts are taken apart and put together.

    Raises:
        DataError: A prompt fits no template, or one to forget has no words for a style.
    """

    def __init__(self, data: UnlearnDataModule, table: PromptTable, template: PromptTemplate) -> None:
        self._table, self._template = table, template
        prompts = data.parent.sample_prompts
        self._parts = {text: template.parse(text) for text in dict.fromkeys(prompts)}
        forgotten = dict.fromkeys(prompts[row] for row in data.forget.tolist())
        plain = [text for text in forgotten if not self._parts[text].descriptors]
        if plain:
            raise DataError(
                f"{len(plain)} prompts to forget have no words for a style: anchors would replace nothing",
                found=f"'{plain[0]}'",
                expected="descriptors, as in " + " or ".join(f"'{one}'" for one in template.templates),
                fix="set objective.init_args.template to the form of your prompts",
            )

    def __call__(self, noised: Noised) -> list[str]:
        """The content of each sample's prompt under the words of ``style_words``."""
        numbers = [] if noised.labels is None else noised.labels.tolist()
        parts = [self._parts[self._table.texts[number]] for number in numbers]
        return [self._template.compose(part.content, self.style_words(part)) for part in parts]

    def style_words(self, part: PromptParts) -> Sequence[str]:
        """Descriptors that take the place of a prompt's own: none."""
        return ()


class Borrowed(Styleless):
    """The content of a prompt under words of another group that stays, all groups as likely.

    Args:
        data: The training data with its prompts.
        table: The prompts by their numbers.
        template: How prompts are taken apart and put together.
        descriptors: Words of a style in an anchor prompt.

    Raises:
        DataError: No other style stays, or one has no words; and as ``Styleless``.
    """

    def __init__(
        self, data: UnlearnDataModule, table: PromptTable, template: PromptTemplate, descriptors: int
    ) -> None:
        super().__init__(data, table, template)
        parts = [self._parts[text] for text in data.parent.sample_prompts]
        self._styles, self._descriptors = list(_styles(data, parts).values()), descriptors

    def style_words(self, part: PromptParts) -> Sequence[str]:
        """Some descriptors of a style that is drawn."""
        words = self._styles[int(torch.multinomial(self.style_weights(part), 1))]
        return [words[place] for place in torch.randperm(len(words))[: self._descriptors].tolist()]

    def style_weights(self, part: PromptParts) -> Tensor:
        """``[styles]``, how often each style is drawn for a prompt, up to a factor."""
        return torch.ones(len(self._styles))


class Nearest(Borrowed):
    """As ``Borrowed``, with a style drawn the more often the nearer it is to the prompt's own.

    Args:
        data: The training data with its prompts.
        table: The prompts by their numbers.
        template: How prompts are taken apart and put together.
        descriptors: Words of a style in an anchor prompt.
        clip: Measures nearness.
        beta: β of the softmax over cosines.
        eta: The share of draws that is uniform.
    """

    def __init__(
        self,
        data: UnlearnDataModule,
        table: PromptTable,
        template: PromptTemplate,
        descriptors: int,
        clip: ClipText,
        beta: float,
        eta: float,
    ) -> None:
        super().__init__(data, table, template, descriptors)
        self._clip, self._beta, self._eta = clip, beta, eta
        self._prototypes: Tensor | None = None
        self._weights: dict[str, Tensor] = {}

    def style_weights(self, part: PromptParts) -> Tensor:
        """``[styles]`` probabilities, computed once for each distinct list of descriptors."""
        if self._prototypes is None:
            self._prototypes = torch.stack([style_prototype(self._clip(words)) for words in self._styles])
        text = ", ".join(part.descriptors)
        if text not in self._weights:
            found = style_probabilities(self._clip([text]), self._prototypes, self._beta, self._eta)
            self._weights[text] = found[0]
        return self._weights[text]


def _styles(data: UnlearnDataModule, parts: Sequence[PromptParts]) -> Mapping[str, list[str]]:
    """The words of every other group's samples that stay, sorted.

    Raises:
        DataError: There is none, or one has no words.
    """
    found = {}
    for name in data.grouping.names:
        own = data.grouping.forget([name]) if data.grouping.size(name) else data.retain[:0]
        members = np.intersect1d(own, data.retain).tolist()
        if name not in data.groups and members:
            found[name] = sorted({word for row in members for word in parts[row].descriptors})
            if not found[name]:
                raise DataError(
                    f"no prompt of the style '{name}' has words for it",
                    found=f"{len(members)} prompts without descriptors",
                    expected="descriptors, which an anchor prompt borrows",
                    fix="write them into the prompts, or take the strategy style_removed",
                )
    if not found:
        raise DataError(
            f"no other style stays without {', '.join(data.groups)}",
            found="no group with samples that are retained",
            expected="at least one, whose words an anchor prompt borrows",
            fix="take the strategy style_removed, or group the other samples too",
        )
    return found


def _without(sample_id: str, names: set[str]) -> tuple[str, ...]:
    """The parts of an id that name no group."""
    return tuple(part for part in PurePosixPath(sample_id).parts if _plain(part) not in names)


def _plain(name: str) -> str:
    return name.replace("_", " ").casefold()
