"""NDA on toys whose shares another computation knows, and end to end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import guda_lightning
from guda_lightning import ScoreTable
from guda_lightning.attribution import NDA, AttributionContext
from guda_lightning.cli.main import main
from guda_lightning.data import GroupDataModule
from guda_lightning.data.grouping import Grouping
from guda_lightning.errors import ConfigError, StoreError
from guda_lightning.functional.noise import gaussian_noise
from guda_lightning.functional.patches import Window, log_patch_masses, patch_shares
from guda_lightning.report.run import report_run
from guda_lightning.scores import ScoreRecord
from guda_lightning.scores.maps import GroupMaps
from guda_lightning.types import Queries
from toys import GROUPS, gray_queries, message, shades, tiny_full

CONF = Path(__file__).parents[1] / "conf"
SHORT = {"timesteps": (400, 800), "patch": 3}  # a schedule of 100 timesteps has 40 and 80
FULL = tiny_full()


def scored(
    asked: Queries, data: GroupDataModule | None = None, grouping: Grouping | None = None, **options: Any
) -> ScoreTable:
    context = AttributionContext(FULL, data or shades(4), grouping)
    return NDA(**{**SHORT, **options}).fit(context).score(asked)


def expected(
    asked: Queries, parts: list[Tensor], removed: Tensor, windows: list[tuple[float, Window]], top: int | None
) -> tuple[Tensor, Tensor]:
    """Both scores ``[2, queries, timesteps, draws, groups]`` and maps, all images and queries at once."""
    schedule, values, maps = FULL.model.schedule, [], []
    for t, draw in ((t, draw) for t in (40, 80) for draw in (0, 1)):
        count = len(asked)
        at = torch.full((count,), t), torch.full((count,), draw)
        noise = gaussian_noise(0, asked.noise_keys, *at, (1, 8, 8))
        gamma, sigma = float(schedule.gamma[t]), float(schedule.sigma[t])
        found = torch.zeros(2, count, 64, len(removed), dtype=torch.float64)
        for share, window in windows:
            x_t = gamma * asked.images + sigma * noise
            masses = log_patch_masses(x_t, gamma, sigma, list(enumerate(parts)), len(parts), window, top)
            found += share * torch.stack(patch_shares(*masses, removed))
        values.append(found.mean(dim=2))
        maps.append(found[0])
    return torch.stack(values, dim=2).unflatten(2, (2, 2)), torch.stack(maps).mean(dim=0)


@pytest.mark.parametrize(
    ("options", "windows", "mirrored"),
    [
        ({}, [(1.0, Window(3, 10.0))], True),
        ({"mask_value": -1.0, "anywhere": False}, [(1.0, Window(3, -1.0, anywhere=False))], False),
        (
            {"coarse": 4, "alpha": 0.3, "top": 5},
            [(0.3, Window(3, 10.0)), (0.7, Window(4, 10.0, halved=True))],
            False,
        ),
    ],
)
def test_scores_are_means_of_shares_over_positions_and_noise(
    options: dict[str, Any],
    windows: list[tuple[float, Window]],
    mirrored: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("guda_lightning.attribution.fitted_nda._ROWS", 128)  # two pictures at a time
    monkeypatch.setattr("guda_lightning.attribution.fitted_nda._CELLS", 128 * 64 * 3)
    asked, data = gray_queries("a", "b", "c"), shades(4, horizontal_flip=mirrored)
    overlapping = Grouping({"few": [3, 5], "many": range(2, 9), "odd": range(1, 12, 2), "empty": []}, 12)
    table = scored(asked, data, overlapping, groups=["few", "many", "odd", "many+odd"], **options)
    membership = torch.from_numpy(overlapping.membership())
    rows = [membership[:, 0], membership[:, 1], membership[:, 2], membership[:, 1] | membership[:, 2]]
    # Every image an atom of its own: nothing is summed before it has to be.
    parts = [data.seen_inputs(np.array([row])) for row in range(12)]
    values, maps = expected(asked, parts, torch.stack(rows), windows, options.get("top"))
    assert table.groups == ("few", "many", "odd", "many+odd")
    for weighting, of_one in zip(("posterior", "density"), values, strict=True):
        part = table.select(weighting=weighting)
        torch.testing.assert_close(part.matrix(), of_one.mean(dim=(1, 2)), rtol=1e-6, atol=1e-9)
        halves = (of_one[:, :, 0] - of_one[:, :, 1]) / 2  # standard errors of two draws, up to their sign
        error = (halves[:, 0].square() + halves[:, 1].square()).sqrt() / 2
        torch.testing.assert_close(part.stderr_matrix(), error, rtol=1e-6, atol=1e-9)
    assert table.maps is not None and table.maps.of == table.record.hash
    drawn = maps.transpose(1, 2).unflatten(2, (8, 8)).float()
    torch.testing.assert_close(table.maps.shares, drawn, rtol=1e-4, atol=1e-6)


def test_a_query_has_the_same_scores_in_any_company_and_as_a_latent() -> None:
    asked = gray_queries("a", "b", "c")
    whole = scored(asked).select(weighting="density").matrix()
    alone = scored(asked.take([1])).select(weighting="density").matrix()
    torch.testing.assert_close(alone, whole[1:2], rtol=1e-9, atol=0)
    hidden = replace(
        asked, images=torch.zeros_like(asked.images), latents=asked.images, keys=asked.noise_keys
    )
    torch.testing.assert_close(scored(hidden).select(weighting="density").matrix(), whole, rtol=1e-9, atol=0)


def test_a_picture_of_two_halves_is_shared_and_mapped() -> None:
    data = shades(4)
    images = data.seen_inputs(np.arange(12))
    planted = torch.cat([images[9, :, :, :4], images[10, :, :, 4:]], dim=2)[None]
    halves = Grouping({"left": [9], "right": [10], "rest": [*range(9), 11]}, 12)
    table = scored(Queries(("both",), planted), data, halves, timesteps=(10,), anywhere=False)
    assert table.maps is not None
    inner = table.maps.shares[0, :2][
        :, :, [*range(3), *range(5, 8)]
    ]  # where a patch of 3 x 3 is of one image
    wanted = torch.tensor([[1.0] * 3 + [0.0] * 3, [0.0] * 3 + [1.0] * 3])[:, None].expand(2, 8, 6)
    torch.testing.assert_close(inner, wanted, rtol=0, atol=1e-3)
    posterior = table.select(weighting="posterior").matrix()[0]
    torch.testing.assert_close(posterior, torch.tensor([0.5, 0.5, 0.0]).double(), rtol=0, atol=0.1)


def test_the_record_differs_with_all_that_scores_depend_on() -> None:
    asked, data = gray_queries("a"), shades(4)

    def record(config: NDA, data: GroupDataModule = data, full: Any = FULL) -> ScoreRecord:
        return config.fit(AttributionContext(full, data)).record(asked)

    others = [
        record(NDA()),
        *(record(NDA(**{name: value})) for name, value in {  # type: ignore[arg-type]
            "timesteps": (200,), "patch": 5, "coarse": 6, "top": None, "mask_value": 1.0, "anywhere": False,
            "draws": 3, "seed": 1, "groups": ["dark"],
        }.items()),
        record(NDA(), shades(4, horizontal_flip=True)),
        record(NDA(), shades(5)),
        record(NDA(), full=tiny_full(timesteps=200)),
    ]  # fmt: skip
    assert len({one.hash for one in others}) == len(others)
    assert record(NDA(patch=7)) == others[0]
    stored = ScoreRecord.from_stored(others[1].to_stored())
    assert stored == others[1] and stored.kind == "nonparametric"
    assert others[0].group_sizes == dict.fromkeys(GROUPS, 4)


@pytest.mark.parametrize(("side", "patch"), [(1, 1), (3, 5), (4, 7), (64, 7)])
def test_small_pictures_have_small_patches(side: int, patch: int) -> None:
    assert NDA()._windows((3, side, side))[0][1].size == patch


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"draws": 1}, ("draws is out of range", 1, "draws >= 2", "take 2: one draw has no standard error")),
        ({"top": 0}, ("top is out of range", 0, "top >= 1", "take the usual 100, or null for all positions")),
        (
            {"timesteps": (1000,)},
            ("a timestep of nda is out of range", 1000, "0 <= t <= 999", "take 100 to 500, of 1000"),
        ),
        (
            {"alpha": 1.0},
            ("alpha is out of range", 1.0, "0 < alpha < 1", "take 0.5, or leave coarse out for one scale"),
        ),
        (
            {"timesteps": ()},
            (
                "nda needs a timestep and a finite mask_value",
                "timesteps [], mask_value 10.0",
                "at least one timestep, and a number",
                "take timesteps: [100] and mask_value: 10",
            ),
        ),
        ({"patch": 16}, ("patch is out of range", 16, "1 <= patch <= 15", "pictures have 8 x 8 pixels")),
        (
            {"coarse": 5},
            ("coarse is odd", 5, "an even side: blocks of 2 x 2 pixels make one", "take 6"),
        ),
        (
            {"timesteps": (400, 403)},
            (
                "the timesteps of nda do not fit the noise schedule",
                "[400, 403] of 1000, which are [40, 40] of 100",
                "different timesteps that hold signal and noise",
                "take timesteps: [100]",
            ),
        ),
    ],
)
def test_what_cannot_be_scored_is_refused(options: dict[str, Any], expected: tuple[Any, ...]) -> None:
    with pytest.raises(ConfigError, match=message(*expected)):
        scored(gray_queries("a"), **options)


def test_a_run_is_scored_and_its_page_shows_the_maps(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert guda_lightning.NDA is NDA
    arguments = [
        "attribute",
        "-c",
        f"{CONF}/digits.yaml",
        "-c",
        "attribute/nda.yaml",
        "--run",
        str(finished_run),
    ]
    wandb = {"project": "p", "offline": True, "save_dir": str(finished_run)}
    logger = json.dumps({"class_path": "WandbLogger", "init_args": wandb})
    assert main([*arguments, "--trainer.logger", logger]) == 0
    path, maps = (
        finished_run / "scores" / "nda-0.parquet",
        finished_run / "scores" / "maps" / "nda-0.safetensors",
    )
    table, stored = ScoreTable.load(path), GroupMaps.load(maps)
    (logged,) = finished_run.glob("wandb/offline-run-*/files/media/table/attribution/scores_*.json")
    shown = [row[6:-3:2] for row in json.loads(logged.read_text())["data"]]
    assert shown == table.select(weighting="posterior").matrix().tolist()
    means = stored.shares.mean(dim=(2, 3)).double()
    torch.testing.assert_close(means, table.select(weighting="posterior").matrix(), rtol=0, atol=1e-3)
    capsys.readouterr()
    assert main(arguments) == 0
    assert capsys.readouterr().out.endswith(f"attribute: {path} is complete, skipped\n")

    assert '"maps":[{"image":"data:image/png;base64,' in report_run(finished_run, path).read_text()
    replace(stored, of="others").save(maps)
    changed = report_run(finished_run, path).read_text()
    assert '"maps":[]' in changed and "of other scores" in changed
    maps.write_bytes(b"half")
    expected = message(
        f"{maps} is damaged",
        "no seal",
        "the seal of a file that this version wrote",
        "remove it; to have maps again, remove the score table as well and rerun guda attribute",
    )
    with pytest.raises(StoreError, match=expected):
        report_run(finished_run, path)
    maps.unlink()
    assert "of other scores" not in report_run(finished_run, path).read_text()
