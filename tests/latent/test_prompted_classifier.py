"""Guidance of text-to-image models: refused where prompts tell the group."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from guda_lightning import FullModel
from guda_lightning.data import HeldOutDataModule
from guda_lightning.data.sources.source import ImageTable
from guda_lightning.errors import ConfigError
from guda_lightning.latent import LatentDataModule, LatentDiffusionModule
from guda_lightning.posteriors import (
    ClassifierPlan,
    GroupClassifier,
    PosteriorKey,
    PosteriorRecord,
    PosteriorStore,
    guided,
    network_hparams,
    open_posterior,
    weights_of,
)
from guda_lightning.posteriors.network import pooled
from guda_lightning.storage.files import sha256_json
from toys import Coloured, quiet_trainer


def test_the_mean_over_tokens_leaves_padding_out() -> None:
    hidden = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [100.0, 100.0]]])
    mask = torch.tensor([[1.0, 1.0, 0.0]])
    found = pooled({"encoder_hidden_states": hidden, "encoder_attention_mask": mask})
    assert torch.equal(found, torch.tensor([[2.0, 4.0]]))
    assert torch.equal(pooled({"encoder_hidden_states": hidden[:, :2]}), found)


def test_a_classifier_cannot_guide_what_prompts_determine(data: LatentDataModule) -> None:
    module = LatentDiffusionModule(data.encoders.pretrained)
    with pytest.raises(ConfigError) as caught:
        GroupClassifier(ClassifierPlan(), data, FullModel.of(module).model)
    assert str(caught.value) == (
        "guidance does not support these groups: prompts of the text-to-image model determine them\n"
        "  found:    one set of groups per prompt\n"
        "  expected: groups that the prompts do not determine, or an unconditional model\n"
        "  fix:      use guda unlearn, e.g. with unlearn/weighted_style.yaml, or prompts that several groups "
        "share"
    )


@dataclass(frozen=True)
class NotNamed(Coloured):
    """The same pictures, whose prompts do not name the colour."""

    def load(self) -> ImageTable:
        table = super().load()
        return replace(table, prompts=tuple(f"A depiction of {id.split('/')[0]}" for id in table.ids))


def test_a_classifier_takes_the_prompts_of_queries_that_come_later(pretrained: str, tmp_path: Path) -> None:
    data = LatentDataModule(NotNamed(4), pretrained, batch_size=6)
    full = FullModel.of(LatentDiffusionModule(pretrained)).prompted(data.prompts)
    plan = ClassifierPlan(channels=(), width=8, features=8, steps=3, batch_size=6, held_out=0.4)
    module = GroupClassifier(plan, data, full.model)
    trainer = quiet_trainer(tmp_path, max_steps=plan.steps)
    trainer.fit(module, datamodule=HeldOutDataModule(data, plan.held_out, plan.batch_size, seed=0))
    module.kept.head.weight.mul_(20)  # opinions
    store, hparams = PosteriorStore(tmp_path), network_hparams(plan, data.input_shape)
    key = PosteriorKey("classifier", module.groups, 0, sha256_json(hparams))
    made_from = full.provenance(data.grouping.hash)
    spent: dict[str, Any] = {"seconds": 1.0, "steps": 3, "network_evaluations": 1}
    store.save(weights_of(module), PosteriorRecord.of(key, hparams, made_from, **spent))

    # Another process meets other prompts first: the same words have other numbers there.
    later = LatentDataModule(NotNamed(2), pretrained, batch_size=6)
    later.prompts.numbers(["A depiction of 3", "A depiction of 2"])
    schedule = full.model.schedule
    opened = open_posterior(store, "classifier", schedule, seed=0, data=later).posterior
    texts = ["A depiction of 2", "A depiction of 0", "A depiction of 2", ""]
    here, there = data.prompts.numbers(texts), later.prompts.numbers(texts)
    assert not torch.equal(here, there)
    x = torch.randn(1, *data.input_shape).repeat(4, 1, 1, 1)
    t, removed = torch.full((4,), 300), opened.removed([["red"], ["green", "blue"]])
    of_texts = opened.corrections(x, t, there)(removed)
    order = torch.tensor([module.groups.index(group) for group in opened.groups])
    assert torch.equal(module.atoms[:, order], opened.atoms)
    torch.testing.assert_close(of_texts, module.posterior.corrections(x, t, here)(removed))
    torch.testing.assert_close(of_texts[0], of_texts[2])
    assert not torch.allclose(of_texts[0], of_texts[1], rtol=1e-3)  # the prompt is part of the question

    model = guided(full.prompted(later.prompts).model, opened, ["red"])
    moved = model.predicted_noise(x, t, there) - full.model.predicted_noise(x, t, here)
    torch.testing.assert_close(moved, -schedule.at(t, like=x)[1] * of_texts[:, 0], atol=1e-5, rtol=1e-3)

    with pytest.raises(ConfigError) as caught:
        open_posterior(store, "classifier", schedule, seed=0)
    assert str(caught.value) == (
        "this classifier takes the embeddings of prompts\n"
        "  found:    no training data\n"
        "  expected: the LatentDataModule of the text-to-image model\n"
        "  fix:      pass AttributionContext(data=datamodule)"
    )
