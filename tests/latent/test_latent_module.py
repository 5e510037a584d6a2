"""The denoiser of a pipeline in training."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    PixArtTransformer2DModel,
    PNDMScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from lightning.pytorch import Trainer
from safetensors.torch import load_file, save_file

from guda_lightning import CounterfactualStore, FullModel
from guda_lightning.data import Digits, GroupDataModule
from guda_lightning.diffusion import DiffusionModel, diffusion_model, open_full, sample, sampler
from guda_lightning.diffusion.adapters import Lora, has_adapter
from guda_lightning.diffusion.schedulers import noise_schedule, prediction_type
from guda_lightning.errors import ConfigError, StoreError
from guda_lightning.latent import LatentDataModule, LatentDiffusionModule
from guda_lightning.makers.trainers import TrainerFactory
from guda_lightning.makers.unlearner import Unlearner
from guda_lightning.storage.runs import RunFolder
from guda_lightning.unlearning import Anchor
from guda_lightning.unlearning.hparams import module_hparams
from guda_lightning.unlearning.module import default_optimizer
from toys import message


def trainer(folder: Path, **options: Any) -> Trainer:
    return Trainer(
        default_root_dir=folder,
        max_steps=options.pop("max_steps", 3),
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        **options,
    )


def test_model_and_data_find_a_pipeline_in_the_home_folder(
    pretrained: str, data: LatentDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(Path(pretrained).parent))
    written = f"~/{Path(pretrained).name}"
    module = LatentDiffusionModule(written)
    assert module.pretrained == LatentDataModule(data.source, written).encoders.pretrained == pretrained
    trainer(tmp_path, max_steps=1).fit(module, datamodule=data)


def test_the_loss_is_that_of_the_pipelines_own_unet(
    pretrained: str, data: LatentDataModule, tmp_path: Path
) -> None:
    module = LatentDiffusionModule(pretrained, prompt_dropout=0.0)
    trainer(tmp_path).fit(module, datamodule=data)
    batch = next(iter(data.val_dataloader()))
    torch.manual_seed(7)
    noised = module.noised(batch)
    loss = module.denoising_loss(module.student, noised)
    states = data.prompts(batch["label"])["encoder_hidden_states"]
    output = module.denoiser(noised.x_t, noised.timesteps, encoder_hidden_states=states).sample
    torch.testing.assert_close(loss, (output - noised.noise).square().mean())
    assert torch.equal(noised.rows, batch["index"])


def test_some_prompts_are_left_out_in_training_alone(
    pretrained: str, data: LatentDataModule, tmp_path: Path
) -> None:
    module = LatentDiffusionModule(pretrained, prompt_dropout=0.3)
    trainer(tmp_path, max_steps=1).fit(module, datamodule=data)
    batch = {"image": torch.zeros(2000, 4, 4, 4), "label": torch.ones(2000, dtype=torch.int64)}
    module.train()
    dropped = float((module.noised(batch).labels == 0).float().mean())
    assert abs(dropped - 0.3) < 0.04
    module.eval()
    assert torch.equal(module.noised(batch).labels, batch["label"])


def test_a_lora_is_merged_when_training_ends(pretrained: str, data: LatentDataModule, tmp_path: Path) -> None:
    before = UNet2DConditionModel.from_pretrained(pretrained, subfolder="unet").state_dict()
    module = LatentDiffusionModule(pretrained, lora=Lora(rank=2))
    trainer(tmp_path).fit(module, datamodule=data)
    assert not has_adapter(module.denoiser)
    after = module.denoiser.state_dict()
    assert after.keys() == before.keys()
    moved = {name.rpartition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    attended = {name.rpartition(".")[0] for name in before if ".to_" in name and name.endswith("weight")}
    assert moved == attended


def test_gradient_checkpointing_changes_no_number(
    pretrained: str, data: LatentDataModule, tmp_path: Path
) -> None:
    weights = []
    for checkpointing in (False, True):
        module = LatentDiffusionModule(pretrained, gradient_checkpointing=checkpointing)
        trainer(tmp_path).fit(module, datamodule=data)
        weights.append(module.denoiser.state_dict())
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value)


def test_bf16_trains(pretrained: str, data: LatentDataModule, tmp_path: Path) -> None:
    module = LatentDiffusionModule(pretrained)
    before = copy.deepcopy(module.denoiser.state_dict())
    trainer(tmp_path, precision="bf16-mixed").fit(module, datamodule=data)
    assert any(not torch.equal(before[name], value) for name, value in module.denoiser.state_dict().items())


def test_guidance_by_prompts_is_the_formula(pretrained: str, data: LatentDataModule, tmp_path: Path) -> None:
    module = LatentDiffusionModule(pretrained)
    trainer(tmp_path, max_steps=1).fit(module, datamodule=data)
    full = FullModel.of(module)
    labels = torch.tensor([1, 2])
    one_step = {"shape": (4, 4, 4), "indices": [0, 1], "seed": 0, "steps": 1}

    def drawn(**options: Any) -> torch.Tensor:
        return sample(full.model, full.scheduler, **one_step, **options)

    plain, without = drawn(labels=labels), drawn(labels=torch.zeros(2, dtype=torch.int64))
    guided = drawn(labels=labels, prompt_guidance=3.0)
    # The last step of DDPM adds no noise and is linear in what the network predicts.
    torch.testing.assert_close(guided, without + 3 * (plain - without), rtol=1e-3, atol=1e-3)


def test_a_scheduler_for_another_prediction_is_refused(pretrained: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LatentDiffusionModule(pretrained, scheduler=DDPMScheduler(prediction_type="v_prediction"))
    assert str(caught.value) == (
        "the scheduler's prediction type differs from the denoiser's\n"
        "  found:    DDPMScheduler with prediction type v_prediction\n"
        f"  expected: epsilon, as in {pretrained}\n"
        "  fix:      set prediction_type of model.init_args.scheduler, or leave the scheduler out"
    )


def test_a_moving_average_of_a_lora_is_refused(pretrained: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LatentDiffusionModule(pretrained, lora=Lora(rank=4), ema_decay=0.9)
    assert str(caught.value) == (
        "LoRA training does not support a moving average\n"
        "  found:    lora of rank 4 with ema_decay=0.9\n"
        "  expected: one of the two\n"
        "  fix:      leave out model.init_args.ema_decay or model.init_args.lora"
    )


def test_a_share_of_prompts_out_of_range_is_refused(pretrained: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LatentDiffusionModule(pretrained, prompt_dropout=1.0)
    assert str(caught.value) == (
        "the share of prompts left out is out of range\n"
        "  found:    1.0\n"
        "  expected: 0 <= prompt_dropout < 1\n"
        "  fix:      set model.init_args.prompt_dropout, e.g. 0.1"
    )


def test_data_without_prompts_is_refused(pretrained: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        trainer(tmp_path).fit(LatentDiffusionModule(pretrained), datamodule=GroupDataModule(Digits()))
    assert str(caught.value) == (
        "a text-to-image model needs embedded prompts\n"
        "  found:    datamodule GroupDataModule\n"
        "  expected: a LatentDataModule\n"
        "  fix:      set data.class_path to guda_lightning.LatentDataModule, of the same pipeline"
    )


def test_transformers_of_pixart_are_called_with_their_mask() -> None:
    network = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,  # the prediction, then its variance
        num_layers=1,
        cross_attention_dim=16,
        sample_size=4,
        patch_size=2,
        caption_channels=12,
    ).eval()
    scheduler = DDPMScheduler(beta_schedule="linear")
    states, mask = torch.randn(3, 6, 12), torch.tensor([[1.0] * 6, [1, 1, 0, 0, 0, 0], [1.0] * 6])

    def prompts(numbers: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"encoder_hidden_states": states[numbers], "encoder_attention_mask": mask[numbers]}

    model = DiffusionModel(network, noise_schedule(scheduler), prediction_type(scheduler), prompts)
    x, numbers, timesteps = torch.randn(2, 4, 4, 4), torch.tensor([1, 2]), torch.tensor([3, 900])
    with torch.no_grad():
        found = model.output(x, timesteps, numbers)
        expected = network(
            x,
            encoder_hidden_states=states[1:],
            timestep=timesteps,
            encoder_attention_mask=mask[1:],
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample[:, :4]
    torch.testing.assert_close(found, expected)


def test_transformers_of_stable_diffusion_3_predict_a_flow() -> None:
    network = SD3Transformer2DModel(
        sample_size=4,
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        caption_projection_dim=16,
        pooled_projection_dim=10,
        out_channels=4,
        pos_embed_max_size=4,
    ).eval()
    module = torch.nn.Module()
    module.denoiser, module.scheduler = network, FlowMatchEulerDiscreteScheduler()
    states, pooled = torch.randn(3, 6, 12), torch.randn(3, 10)
    model = diffusion_model(module)
    model = DiffusionModel(
        network,
        model.schedule,
        model.prediction,
        lambda numbers: {"encoder_hidden_states": states[numbers], "pooled_projections": pooled[numbers]},
    )
    x, numbers, index = torch.randn(2, 4, 4, 4), torch.tensor([0, 2]), torch.tensor([10, 800])
    gamma, sigma = model.schedule.at(index, like=x)
    model_timesteps = model.schedule.model_timesteps[index]
    with torch.no_grad():
        velocity = network(
            hidden_states=x,
            encoder_hidden_states=states[numbers],
            pooled_projections=pooled[numbers],
            timestep=model_timesteps,
        ).sample
        found = model.predicted_noise(x, index, numbers)
    torch.testing.assert_close(gamma + sigma, torch.ones_like(gamma))
    torch.testing.assert_close(found, x + gamma * velocity)


def test_data_of_another_pipeline_is_refused(pretrained: str, data: LatentDataModule, tmp_path: Path) -> None:
    (tmp_path / "other").symlink_to(pretrained)
    module = LatentDiffusionModule(str(tmp_path / "other"))
    with pytest.raises(ConfigError) as caught:
        trainer(tmp_path).fit(module, datamodule=data)
    assert str(caught.value) == (
        "the data was encoded for another pipeline than the denoiser's\n"
        f"  found:    {pretrained}\n"
        f"  expected: {tmp_path / 'other'}\n"
        "  fix:      set pretrained of model and data to the same; --pretrained does, where both use it"
    )


def test_latents_are_not_clipped_while_they_are_drawn(pretrained: str, data: LatentDataModule) -> None:
    model = FullModel.of(LatentDiffusionModule(pretrained)).prompted(data.prompts).model
    silent = PNDMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    assert sampler(model, silent, 10).config.clip_sample is False
    bounded = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    assert sampler(model, bounded, 10).config.clip_sample is True  # what a scheduler says counts


def test_unlearning_computes_activations_twice_where_training_did(
    pretrained: str, data: LatentDataModule, tmp_path: Path
) -> None:
    full = FullModel.of(LatentDiffusionModule(pretrained)).prompted(data.prompts)
    for checkpointing in (False, True):
        maker = Unlearner(
            full=full,
            data=data,
            store=CounterfactualStore(tmp_path),
            trainers=TrainerFactory(RunFolder(tmp_path), {}),
            hparams={},
            objective=Anchor(strategy="style_removed"),
            optimizer=default_optimizer,
            steps=1,
            checkpointing=checkpointing,
        )
        assert maker.student(("red",)).denoiser.is_gradient_checkpointing is checkpointing


def test_oracles_of_another_adapter_are_others(pretrained: str) -> None:
    modules = [LatentDiffusionModule(pretrained, lora=lora) for lora in (None, Lora(2), Lora(4))]
    found = [module_hparams(module, FullModel.of(module).model) for module in modules]
    assert len({str(sorted(one.items(), key=str)) for one in found}) == 3
    assert found[2]["lora"]["rank"] == 4


def test_a_checkpoint_with_an_unmerged_lora_is_refused(pretrained: str, tmp_path: Path) -> None:
    module = LatentDiffusionModule(pretrained)
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {"denoiser.to_q.lora_A.default.weight": torch.zeros(1)}}, path)
    with pytest.raises(StoreError) as caught:
        open_full(path, module)
    assert str(caught.value) == (
        f"{path} holds a LoRA beside the weights that it was trained on\n"
        "  found:    an adapter that is not merged yet\n"
        "  expected: the weights of a whole model\n"
        "  fix:      let the training end: RUN/full holds them merged"
    )


def test_a_denoiser_with_missing_weights_is_refused(pretrained: str, tmp_path: Path) -> None:
    folder = tmp_path / "pipeline"
    shutil.copytree(pretrained, folder)
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights["conv_in.bias"]
    save_file(weights, file)
    expected = message(
        f"the pipeline {folder} cannot be read",
        "missing_keys ['conv_in.bias']",
        "a folder that DiffusionPipeline.save_pretrained wrote, or a name on the hub",
        "correct the path; a hub name needs a connection the first time",
    )
    with pytest.raises(StoreError, match=expected):
        LatentDiffusionModule(str(folder))
