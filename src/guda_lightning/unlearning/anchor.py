"""``Anchor``: a prompt to forget is answered as the full model answers a prompt of another style (GUDA-C)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from guda_lightning.data import PromptParts, PromptTemplate, UnlearnDataModule
from guda_lightning.diffusion import DiffusionModel
from guda_lightning.diffusion.module import Noised
from guda_lightning.errors import ConfigError, DataError
from guda_lightning.functional.anchors import style_probabilities, style_prototype
from guda_lightning.latent.clip import ClipText
from guda_lightning.latent.prompts import PromptTable
from guda_lightning.unlearning.objectives import ForgetTerm, Objective, Preserve

Strategy = Literal["weighted_style", "uniform_style", "style_removed", "matched_retain"]


class Anchor(Objective):
    """Redirect prompts of the forgotten group to the full model's answer under an anchor prompt.

    ``λ ‖ε_θ(x_t, c_f) − ε_full(x_t, c_a)‖² + ‖ε_θ(x_t, c) − ε_full(x_t, c)‖²``, the second term on retain
    samples and the same x_t on both sides of the first. The anchor prompt c_a keeps the content of c_f:

    - ``weighted_style``: descriptors of a retain style, drawn the more often the nearer it is by CLIP;
    - ``uniform_style``: descriptors of any retain style;
    - ``style_removed``: no words for a style;
    - ``matched_retain``: the prompt of the same picture in another style, found by sample ids that differ
      only in the name of the group, such as ``Van_Gogh/Dogs/3.jpg``.

    Args:
        strategy: How the anchor prompt is made.
        forget_weight: λ.
        preserve: As in ``Objective``.
        clip: Folder or hub name of the CLIP that ``weighted_style`` measures nearness with.
        beta: β of its softmax over cosines.
        eta: η, the share of its draws that is uniform.
        descriptors: Words of a style in an anchor prompt, drawn at random.
        template: How prompts are taken apart and put together.

    Raises:
        ConfigError: An argument is out of range, or ``weighted_style`` has no CLIP.
    """

    def __init__(
        self,
        strategy: Strategy = "weighted_style",
        forget_weight: float = 1.0,
        preserve: Preserve = "distill",
        clip: str | None = None,
        beta: float = 2.0,  # this and the next two: the paper's
        eta: float = 0.3,
        descriptors: int = 3,
        template: PromptTemplate = PromptTemplate(),  # noqa: B008  (frozen)
    ) -> None:
        super().__init__(forget_weight, preserve)
        if strategy not in get_args(Strategy):
            raise ConfigError(
                "the strategy of the anchors is unknown",
                found=strategy,
                expected=", ".join(get_args(Strategy)),
                fix="set objective.init_args.strategy to one of them",
            )
        if strategy == "weighted_style" and clip is None:
            raise ConfigError(
                "anchors weighted by nearness need a CLIP to measure it",
                found="clip=null",
                expected="the folder or the hub name of a CLIP",
                fix="set objective.init_args.clip, or strategy to uniform_style",
            )
        for name, value, low, high in (
            ("beta", beta, 0, float("inf")),
            ("eta", eta, 0, 1),
            ("descriptors", descriptors, 1, float("inf")),
        ):
            if not low <= value <= high:
                raise ConfigError(
                    f"{name} of the anchors is out of range",
                    found=value,
                    expected=f"{name} >= {low}" + (f" and <= {high}" if high == 1 else ""),
                    fix=f"set objective.init_args.{name}, or leave it out",
                )
        self.strategy, self.beta, self.eta, self.descriptors = strategy, beta, eta, descriptors
        self.template = template
        self._clip = ClipText(clip) if clip is not None and strategy == "weighted_style" else None

    @property
    def name(self) -> str:
        """See ``Objective.name``: that of the strategy."""
        return self.strategy if self.preserve == "distill" else f"{self.strategy}_denoise"

    @property
    def hparams(self) -> dict[str, object]:
        """See ``Objective.hparams``; what sets one CLIP apart from another is its weights."""
        found = {**super().hparams, "strategy": self.strategy, "template": list(self.template.templates)}
        if self.strategy in ("weighted_style", "uniform_style"):
            found["descriptors"] = self.descriptors
        if self._clip is not None:
            found |= {"beta": self.beta, "eta": self.eta, "clip": self._clip.hash}
        return found

    @property
    def full_passes(self) -> int:
        """One more on forget samples, under the anchor prompt."""
        return super().full_passes + 1

    def read(self, data: object) -> None:
        """Take the prompts apart and list the styles that stay.

        Raises:
            ConfigError: The data has no prompts.
            DataError: A prompt fits no template, a style has no words, or a picture has no match.
        """
        table = data.parent.prompts if isinstance(data, UnlearnDataModule) else None
        if not isinstance(data, UnlearnDataModule) or not isinstance(table, PromptTable):
            raise ConfigError(
                "anchors replace the style in a prompt, and there are no prompts",
                found=f"{type(data).__name__} of images without texts",
                expected="training data with prompts",
                fix="take a LatentDataModule, or another objective such as ReTrack",
            )
        self._table, prompts = table, data.parent.sample_prompts
        if self.strategy == "matched_retain":
            self._matches, self._prompts = _matches(data), prompts
            return
        self._parts = {text: self.template.parse(text) for text in dict.fromkeys(prompts)}
        self._refuse_plain([prompts[row] for row in data.forget.tolist()])
        if self.strategy != "style_removed":
            self._styles = _styles(data, [self._parts[text] for text in prompts])
            self._weights: dict[str, Tensor] = {}
            self._prototypes: Tensor | None = None

    def _refuse_plain(self, prompts: Sequence[str]) -> None:
        plain = [text for text in dict.fromkeys(prompts) if not self._parts[text].descriptors]
        if plain:
            raise DataError(
                f"{len(plain)} prompts to forget have no words for a style: anchors would replace nothing",
                found=f"'{plain[0]}'",
                expected="descriptors, as in " + " or ".join(f"'{one}'" for one in self.template.templates),
                fix="set objective.init_args.template to the form of your prompts",
            )

    def forget_term(self, batch: Noised, student: DiffusionModel, full: DiffusionModel) -> ForgetTerm:
        """Target: the full model's output on the same x_t under the anchor prompts."""
        anchors = self.anchors(batch)
        distinct = list(dict.fromkeys(anchors))  # few texts, drawn again and again
        numbers = torch.tensor([distinct.index(text) for text in anchors], device=batch.x_t.device)
        anchored = replace(full, prompts=self._table.once(distinct))
        target = anchored.output(batch.x_t, batch.timesteps, numbers)
        return ForgetTerm(target, torch.ones(len(target), device=target.device))

    def anchors(self, batch: Noised) -> list[str]:
        """An anchor prompt for each forget sample, drawn with torch's generator."""
        if self.strategy == "matched_retain":
            rows = [] if batch.rows is None else batch.rows.tolist()
            choices = [self._matches[row] for row in rows]
            return [self._prompts[rows[int(torch.randint(len(rows), ()))]] for rows in choices]
        numbers = [] if batch.labels is None else batch.labels.tolist()
        parts = [self._parts[self._table.texts[number]] for number in numbers]
        return [self.template.compose(part.content, self._style_words(part)) for part in parts]

    def _style_words(self, part: PromptParts) -> Sequence[str]:
        if self.strategy == "style_removed":
            return ()
        words = list(self._styles.values())[int(torch.multinomial(self._style_weights(part), 1))]
        return [words[place] for place in torch.randperm(len(words))[: self.descriptors].tolist()]

    def _style_weights(self, part: PromptParts) -> Tensor:
        """``[styles]``, how often each style is drawn for a prompt."""
        if self._clip is None:
            return torch.ones(len(self._styles))
        if self._prototypes is None:
            self._prototypes = torch.stack(
                [style_prototype(self._clip(words)) for words in self._styles.values()]
            )
        text = ", ".join(part.descriptors)
        if text not in self._weights:
            found = style_probabilities(self._clip([text]), self._prototypes, self.beta, self.eta)
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


def _matches(data: UnlearnDataModule) -> Mapping[int, list[int]]:
    """Retain samples of the same picture for every forget sample.

    Raises:
        DataError: One has none.
    """
    names = {_plain(name) for name in data.grouping.names}
    ids = data.parent.ids
    same = defaultdict(list)
    for row in data.retain.tolist():
        same[_without(ids[row], names)].append(row)
    found = {row: same[_without(ids[row], names)] for row in data.forget.tolist()}
    alone = [ids[row] for row, matches in found.items() if not matches]
    if alone:
        raise DataError(
            f"{len(alone)} of {len(found)} pictures to forget are in no other style",
            found=f"'{alone[0]}', and no id that differs from it in the name of the group alone",
            expected="ids such as 'Van_Gogh/Dogs/3.jpg' and 'Cubism/Dogs/3.jpg'",
            fix="name the samples so, or take another strategy",
        )
    return found


def _without(sample_id: str, names: set[str]) -> tuple[str, ...]:
    """The parts of an id that name no group."""
    return tuple(part for part in PurePosixPath(sample_id).parts if _plain(part) not in names)


def _plain(name: str) -> str:
    return name.replace("_", " ").casefold()
