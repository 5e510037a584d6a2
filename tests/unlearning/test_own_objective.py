"""A new objective is one file and one YAML."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel

from guda_lightning.cli.main import main
from guda_lightning.counterfactuals import CounterfactualStore

HERE = Path(__file__).parent
COMMAND = ["unlearn", "-c", str(HERE.parent / "conf" / "digits.yaml"), "-c", str(HERE / "constant.yaml")]


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(HERE)
    yield


def test_it_unlearns_and_each_value_of_its_own_field_is_another_counterfactual(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*COMMAND, "--run", str(finished_run), "--groups", "3"]
    capsys.readouterr()
    for value in ([], ["--objective.init_args.value", "0.5"]):
        assert main([*command, *value]) == 0
        assert "unlearn: 3 done (1 of 1)" in capsys.readouterr().out
        assert main([*command, *value]) == 0
        assert capsys.readouterr().out == "unlearn: 1 complete, skipped: 3\n"
    store = CounterfactualStore(finished_run / "store")
    stored = {r.hparams["objective"]["value"]: r.key for r in store.records() if r.operator == "constant"}
    assert stored.keys() == {0.25, 0.5}
    assert len({str(key) for key in stored.values()}) == 2
    weights = [store.load(key, expect=None)[0] for key in stored.values()]
    assert any(not torch.equal(one, weights[1][name]) for name, one in weights[0].items())
    full = UNet2DModel.from_pretrained(finished_run / "full" / "unet").state_dict()
    assert any(not torch.equal(one, full[name]) for name, one in weights[0].items())


def test_its_arguments_are_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMAND[:3], "--objective.help", "constant.Constant"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "VALUE The number to output. (type: float, default: 0.0)" in shown
    assert "The factor of the forget term. (type: float, default: 1.0)" in shown
    assert "The term on retain samples. (type: Literal['denoise', 'distill'], default: denoise)" in shown
