"""LoRA adapters: they change nothing at first, travel alone, and merge into an ordinary network."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor, nn

from guda_lightning.diffusion.adapters import (
    BeneathAdapter,
    Lora,
    add_adapter,
    has_adapter,
    merge_adapter,
    own_weights,
    set_own_weights,
)
from guda_lightning.diffusion.schedulers import noise_schedule, prediction_type
from guda_lightning.errors import ConfigError, StoreError
from toys import assert_same_output


@pytest.fixture
def network() -> nn.Module:
    """A UNet with attention."""
    torch.manual_seed(0)
    made: nn.Module = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=8,
    )
    return made.eval()


def output(network: nn.Module) -> Tensor:
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found: Tensor = network(x, torch.tensor([5, 700])).sample
    return found


def changed(network: nn.Module, rank: int = 2, seed: int = 1) -> nn.Module:
    """A copy with an adapter that does something."""
    made = copy.deepcopy(network)
    add_adapter(made, Lora(rank))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator)
    return made


def test_a_new_adapter_changes_nothing_and_is_all_that_trains(network: nn.Module) -> None:
    before = output(network)
    adapted = copy.deepcopy(network)
    add_adapter(adapted, Lora(rank=2))
    assert_same_output(output(adapted), before)
    assert has_adapter(adapted)
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert trained == set(own_weights(adapted))
    # Four projections in each attention layer, two matrices each.
    layers = sum(name.endswith("to_q") for name, _ in network.named_modules())
    assert len(trained) == 8 * layers
    assert sum(value.numel() for value in own_weights(adapted).values()) == layers * 4 * 2 * (16 + 16)


def test_an_adapter_alone_makes_its_counterfactual_of_the_full_model(network: nn.Module) -> None:
    first, second = changed(network, seed=1), changed(network, seed=2)
    assert not torch.allclose(output(first), output(second))
    moving = copy.deepcopy(network)
    for counterfactual in (first, second, first):  # one after the other in the same network
        set_own_weights(moving, own_weights(counterfactual), "here")
        assert_same_output(output(moving), output(counterfactual))


def test_beneath_an_adapter_lies_the_full_model(network: nn.Module) -> None:
    adapted = changed(network)
    before = output(adapted)
    adapted.train()
    for parameter in adapted.parameters():
        parameter.requires_grad_(False)
    trained = [p for name, p in adapted.named_parameters() if "lora_A" in name]
    for parameter in trained:
        parameter.requires_grad_(True)
    scheduler = DDPMScheduler()
    full = BeneathAdapter(adapted, noise_schedule(scheduler), prediction_type(scheduler))
    x, timesteps = torch.randn(2, 1, 8, 8), torch.tensor([5, 700])
    with torch.no_grad():
        expected = network(x, timesteps).sample
    found = full.output(x, timesteps)
    assert_same_output(found, expected)
    assert not found.requires_grad
    assert adapted.training
    assert [p for p in adapted.parameters() if p.requires_grad] == trained
    assert_same_output(output(adapted.eval()), before)  # and the adapter is back


def test_all_weights_make_their_counterfactual(network: nn.Module) -> None:
    other = copy.deepcopy(network)
    for parameter in other.parameters():
        parameter.data += 0.1
    moving = copy.deepcopy(network)
    set_own_weights(moving, own_weights(other), "here")
    assert_same_output(output(moving), output(other))


def test_a_merged_adapter_leaves_an_ordinary_network(network: nn.Module) -> None:
    adapted = changed(network)
    expected = output(adapted)
    merge_adapter(adapted)
    assert not has_adapter(adapted)
    assert adapted.state_dict().keys() == network.state_dict().keys()
    torch.testing.assert_close(output(adapted), expected, rtol=1e-4, atol=1e-5)
    assert all(parameter.requires_grad for parameter in adapted.parameters())
    add_adapter(adapted, Lora(rank=1))  # and can be adapted again
    assert has_adapter(adapted)


def test_an_adapter_of_another_rank_does_not_follow_one_in_place(network: nn.Module) -> None:
    moving = copy.deepcopy(network)
    set_own_weights(moving, own_weights(changed(network, rank=2)), "first")
    with pytest.raises(StoreError) as caught:
        set_own_weights(moving, own_weights(changed(network, rank=3)), "second")
    name = sorted(own_weights(moving))[0]
    assert str(caught.value) == (
        "the LoRA second does not match its base, a UNet2DModel\n"
        f"  found:    {len(own_weights(moving))} matrices of rank 3, such as {name}\n"
        f"  expected: those of the {len(own_weights(moving))} places that the base has\n"
        "  fix:      use the full model that it was made from"
    )


def test_an_adapter_of_another_base_is_refused(network: nn.Module) -> None:
    weights = own_weights(changed(network))
    with pytest.raises(StoreError) as caught:
        set_own_weights(nn.Sequential(nn.Linear(4, 4)), weights, "here")
    assert str(caught.value) == (
        "the LoRA here does not match its base, a Sequential\n"
        f"  found:    {len(weights)} matrices of rank 2, such as {sorted(weights)[0]}\n"
        "  expected: those of the 0 places that the base has\n"
        "  fix:      use the full model that it was made from"
    )


def test_a_lora_without_a_target_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        add_adapter(nn.Sequential(nn.Linear(4, 4)), Lora())
    assert str(caught.value) == (
        "a LoRA finds nothing to adapt in Sequential\n"
        "  found:    no layer named to_q, to_k, to_v, to_out.0\n"
        "  expected: ends of names of linear layers, such as 0\n"
        "  fix:      set lora.targets"
    )


def test_a_rank_below_one_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        Lora(rank=0)
    assert str(caught.value) == (
        "the rank of a LoRA is out of range\n  found:    0\n  expected: rank >= 1\n  fix:      set lora.rank"
    )


def test_a_rank_above_the_width_of_a_layer_comes_back() -> None:
    base = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4))
    adapted = copy.deepcopy(base)
    add_adapter(adapted, Lora(rank=12, targets=("0", "1")))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
    moving, x = copy.deepcopy(base), torch.randn(3, 8)
    set_own_weights(moving, own_weights(adapted), "here")
    with torch.no_grad():
        assert_same_output(moving(x), adapted(x))


def test_a_second_adapter_is_refused(network: nn.Module) -> None:
    adapted = changed(network)
    with pytest.raises(ConfigError) as caught:
        add_adapter(adapted, Lora())
    assert str(caught.value) == (
        "UNet2DModel has an adapter already\n"
        "  found:    a LoRA in its layers\n"
        "  expected: a network of ordinary layers\n"
        "  fix:      merge that adapter first, or leave lora out"
    )
