"""Two processes look at the gradients of the whole batch, as one does."""

from __future__ import annotations

from pathlib import Path

import pytest
import surgery_ranks
import torch
from safetensors.torch import load_file

from toys import tiny_unet
from warm import Server, ranks


@pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode")
@pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller")
def test_two_processes_unlearn_as_one_does(warm: Server, tmp_path: Path) -> None:
    surgery_ranks.trained(tmp_path, 1)
    first, second = ranks(warm, tmp_path, surgery_ranks.trained, tmp_path, 2)
    assert first[0] == second[0] == 0, first[1][-3000:] + second[1][-3000:]
    for name in surgery_ranks.OBJECTIVES:
        one, two = (load_file(tmp_path / f"{name}-{processes}.safetensors") for processes in (1, 2))
        assert (abs(float(one["factor"])) > 0.1) == (name != "salun")
        for key, value in one.items():
            torch.testing.assert_close(
                two[key], value, rtol=1e-4, atol=2e-6, msg=lambda m, n=name, k=key: f"{n} {k}: {m}"
            )
        start = tiny_unet().state_dict()
        assert max(float((one[key] - value).abs().max()) for key, value in start.items()) > 1e-3
