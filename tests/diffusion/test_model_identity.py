"""What identifies a full model, and that it is what it was when it was written."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler

from guda_lightning.diffusion import DiffusionModule, FullModel, open_full, save_full, weights_hash
from guda_lightning.diffusion.full import model_hash
from guda_lightning.diffusion.saved import open_schedule
from guda_lightning.errors import StoreError
from guda_lightning.storage.full_record import FullRecord
from guda_lightning.storage.seals import sealed_folder
from toys import as_earlier, tiny_unet

AGAIN = "run guda fit again"


def full(**config: object) -> FullModel:
    module = DiffusionModule(tiny_unet(**config), DDPMScheduler(num_train_timesteps=50), torch.optim.SGD)
    return FullModel.of(module)


def record(of: str) -> FullRecord:
    return FullRecord(of, "schedule", {}, steps=1, seconds=1.0, network_evaluations=1)


def written(folder: Path, model: FullModel, of: str | None = None) -> Path:
    with sealed_folder(folder) as temporary:
        save_full(temporary, model)
        (temporary / "record.json").write_text(record(of or model.hash).to_json())
    return folder


def test_the_configuration_and_what_is_predicted_identify_a_model_as_its_weights_do(tmp_path: Path) -> None:
    model = full()
    others = [full(norm_eps=1e-4), full(seed=1)]
    weights = [weights_hash(one.model.denoiser.state_dict()) for one in (model, *others)]
    assert weights[0] == weights[1] != weights[2]
    v_prediction = model_hash(replace(model.model, prediction="v_prediction"))
    assert len({model.hash, *(one.hash for one in others), v_prediction}) == 4
    assert full(norm_eps=1e-5).hash == model.hash  # the default, given or not
    assert open_full(written(tmp_path / "full", model), None).hash == model.hash


def test_a_sealed_model_keeps_the_identity_of_its_record(tmp_path: Path) -> None:
    """A library that changes a default changes what its configuration is hashed to, and not the model."""
    assert open_full(written(tmp_path / "full", full(), of="0" * 64), None).hash == "0" * 64


@pytest.mark.parametrize("lost", ["record.json", "seal.json", "unet/config.json"])
def test_a_model_that_lost_a_file_is_not_taken_for_an_earlier_one(lost: str, tmp_path: Path) -> None:
    path = written(tmp_path / "full", full())
    (path / lost).unlink()
    with pytest.raises(StoreError, match=rf"remove {path} and {AGAIN}$"):
        open_full(path, None)
    if lost != "unet/config.json":
        with pytest.raises(StoreError, match=rf"remove {path} and {AGAIN}$"):
            open_schedule(path)


def test_a_model_of_an_earlier_version_is_known_by_its_weights(tmp_path: Path) -> None:
    model = full()
    earlier = weights_hash(model.model.denoiser.state_dict())
    path = written(tmp_path / "full", model)
    as_earlier(path)
    assert open_full(path, None).hash == earlier  # as its counterfactuals and tables know it
    open_schedule(path)
    other = tmp_path / "other"
    shutil.copytree(written(other / "full", full(seed=1)) / "unet", path / "unet", dirs_exist_ok=True)
    with pytest.raises(StoreError, match=f"{path} holds another model than its record says"):
        open_full(path, None)
