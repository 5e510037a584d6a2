"""The callback on a latent model: scores on latents, pictures decoded."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import wandb
from benchmarks.pipelines import stable_diffusion
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger

from guda_lightning import ELBOAttributionCallback, FullModel, Scoring, UnlearnModule
from guda_lightning.callbacks.our_data import noise_keys_of
from guda_lightning.data import save_queries
from guda_lightning.data.gathering import Collected
from guda_lightning.data.images import from_unit, to_unit
from guda_lightning.latent import LatentDataModule, LatentDiffusionModule
from guda_lightning.types import Queries, content_keys
from guda_lightning.unlearning import ReTrack
from toys import Coloured
from wandb_files import runs


@pytest.fixture
def data(tmp_path: Path) -> LatentDataModule:
    """Coloured pictures as latents of an untrained pipeline."""
    texts = list(Coloured().load().prompts or ())
    stable_diffusion(texts, 16, width=16, text_width=32, vae_width=8).save_pretrained(tmp_path / "pipeline")
    return LatentDataModule(Coloured(), str(tmp_path / "pipeline"), batch_size=6)


@pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode")
@pytest.mark.parametrize("fixed", [False, True], ids=["validation samples", "images on disk"])
def test_pictures_are_decoded_and_scores_are_those_of_the_latents(
    fixed: bool, data: LatentDataModule, tmp_path: Path
) -> None:
    full = FullModel.of(LatentDiffusionModule(data.encoders.pretrained)).prompted(data.prompts)
    student = UnlearnModule(full, ReTrack(), ["red"])
    images = to_unit(Coloured().load().pixels([0, 4]))
    if fixed:
        requested = Queries(("a", "b"), images, prompts=tuple(data.sample_prompts[row] for row in (0, 4)))
        save_queries(tmp_path / "queries", requested, {})
    callback = ELBOAttributionCallback(
        queries=tmp_path / "queries" if fixed else None, scoring=Scoring(strata=2, draws=1)
    )
    logger = WandbLogger(project="guda", name="latents", save_dir=tmp_path, offline=True)
    Trainer(
        default_root_dir=tmp_path,
        max_steps=2,
        val_check_interval=1,
        check_val_every_n_epoch=None,
        accelerator="cpu",
        logger=logger,
        log_every_n_steps=1,
        callbacks=[callback],
        enable_checkpointing=False,
        enable_progress_bar=False,
        num_sanity_val_steps=0,
    ).fit(student, datamodule=data.unlearning(["red"]))
    wandb.finish()
    table = callback.table
    assert table is not None
    assert len(table.queries) == (2 if fixed else 6)
    assert torch.isfinite(table.matrix()).all()
    (run,) = runs(tmp_path).values()
    columns, rows, thumbnails = run.table("influence/scores")
    assert [columns[0], columns[1], *columns[6:8]] == ["query", "image", "red", "red ±"]
    assert [row[0] for row in rows] == list(table.queries)
    latents = data.encoders.latents(images)
    shown = latents if fixed else data.inputs[[data.ids.index(query) for query in table.queries]]
    decoded = from_unit(data.pictures(shown)).permute(0, 2, 3, 1).numpy()
    # Decoded in other batches: rounding may end one of 256 levels away.
    np.testing.assert_allclose(np.stack(thumbnails).astype(int), decoded.astype(int), rtol=0, atol=1)


def test_noise_of_latents_is_keyed_by_their_pictures(data: LatentDataModule) -> None:
    batch = next(iter(data.train_dataloader()))
    trainer: Any = SimpleNamespace(datamodule=data)
    indices = batch["index"].numpy()
    keys = noise_keys_of(trainer, batch, [2, 0], batch["image"][[2, 0]], len(indices))
    assert keys == data.noise_keys(indices[[2, 0]]) == content_keys(to_unit(data.pixels(indices[[2, 0]])))
    queries = Queries(("a",), torch.zeros(1, 3, 16, 16), latents=torch.ones(1, 4, 8, 8))
    assert Collected.of(queries).keys == content_keys(queries.images)
