"""Trivial rivals, against counts, scipy and a mixture of Gaussians whose posterior is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from scipy import stats
from torch import Tensor, nn

from guda_lightning.attribution import AttributionContext, ClassProbability, GroupSize, RandomScores
from guda_lightning.attribution.class_probability import clean_probability
from guda_lightning.cli.main import main
from guda_lightning.data.grouping import Grouping
from guda_lightning.diffusion.schedulers import noise_schedule
from guda_lightning.errors import ConfigError, GroupError, QueryError, StoreError
from guda_lightning.posteriors import ClassifierPosterior, PosteriorKey, PosteriorRecord, PosteriorStore
from guda_lightning.scores import ScoreTable
from guda_lightning.storage.files import sha256_json
from guda_lightning.types import Queries
from toys import GROUPS, gray_queries, message, save_guidance, shades, tiny_full

CONF = Path(__file__).parent.parent / "conf"
UNEVEN = Grouping({"few": [3, 40], "many": range(2, 45), "empty": []}, 48)


def context(grouping: Grouping | None = None, **arguments: Any) -> AttributionContext:
    return AttributionContext(tiny_full(), shades(), grouping, **arguments)


def test_random_scores_are_standard_normal_and_depend_on_images_and_groups_alone() -> None:
    asked = gray_queries(*(f"q{i}" for i in range(600)))
    table = RandomScores().fit(context()).score(asked)
    assert (table.methods, table.weightings, table.groups) == (("random",), ("random",), GROUPS)
    scores = table.matrix()
    assert stats.kstest(scores.flatten().numpy(), "norm").pvalue > 0.01
    assert scores.T.corrcoef().triu(1).abs().max() < 0.15
    part = RandomScores(groups=["noisy", "dark"]).fit(context()).score(asked.take([5, 2]))
    assert torch.equal(part.matrix(), scores[[5, 2]][:, [2, 0]])
    other = RandomScores(1).fit(context()).score(asked)
    assert other.seeds == (1,) and other.record != table.record
    assert abs(stats.pearsonr(other.matrix().flatten(), scores.flatten()).statistic) < 0.1


def test_group_sizes_are_counts_without_repeats() -> None:
    table = GroupSize().fit(context(UNEVEN)).score(gray_queries("a", "b"))
    assert table.groups == ("few", "many")
    assert table.matrix().tolist() == [[2.0, 43.0]] * 2
    assert not table.stderr_matrix().any()
    joint = Grouping({"few": [3, 46], "many": range(2, 45)}, 48)
    both = GroupSize(["few", "few+many"]).fit(context(joint)).score(gray_queries("a"))
    assert both.matrix().tolist() == [[2.0, 44.0]]
    assert both.record.group_sizes == {"few": 2, "few+many": 44}


class Bayes(nn.Module):
    """The posterior of two Gaussians of unit variance around ±mean, by their log odds."""

    def __init__(self, mean: float, share: float) -> None:
        super().__init__()
        self.mean, self.share = mean, share
        self.head = nn.Identity()

    def features(self, x: Tensor, log_snr: Tensor, labels: Tensor | None = None) -> Tensor:
        gamma = torch.sigmoid(log_snr).sqrt()  # of γ² + σ² = 1: noised, they keep the unit variance
        odds = 2 * (gamma[:, None] * self.mean * x.flatten(1)).sum(dim=1)
        log_share = torch.tensor([self.share, 1 - self.share]).log()
        return torch.stack([odds / 2, -odds / 2], dim=1) + log_share


def test_probabilities_are_those_of_bayes_rule() -> None:
    schedule = noise_schedule(DDPMScheduler(num_train_timesteps=100))
    mean, share, asked = 0.2, 0.3, gray_queries("a", "b", "c")
    classifier = ClassifierPosterior(
        schedule=schedule,
        atoms=torch.eye(2).bool(),
        groups=("left", "right"),
        network=Bayes(mean, share),  # type: ignore[arg-type]
        temperatures=torch.ones(100),
    )
    found = clean_probability(classifier, classifier.removed([["left"], ["right"]]), asked, "cpu")
    gamma = float(schedule.gamma[1])
    x = gamma * asked.images.double()
    like = [
        torch.distributions.Normal(sign * gamma * mean, 1.0).log_prob(x).sum(dim=(1, 2, 3)).exp() * weight
        for sign, weight in ((1, share), (-1, 1 - share))
    ]
    expected = torch.stack(like, dim=1) / sum(like)[:, None]  # type: ignore[index]
    torch.testing.assert_close(found, expected.double(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["guidance", "classifier"])
def test_class_probabilities_sum_to_one_and_to_those_of_coalitions(kind: str, tmp_path: Path) -> None:
    save_guidance(tmp_path, tiny_full(), shades())
    asked = gray_queries("a", "b", "c")
    table = ClassProbability(kind).fit(context(store=tmp_path)).score(asked)
    scores = table.matrix()
    assert (table.methods, table.weightings) == (("class_probability",), ("probability",))
    torch.testing.assert_close(scores.sum(dim=1), torch.ones(3).double())
    assert scores.std() > 0
    joint = ClassProbability(kind, groups=["dark+noisy"]).fit(context(store=tmp_path)).score(asked)
    torch.testing.assert_close(joint.matrix()[:, 0], scores[:, [0, 2]].sum(dim=1))
    assert joint.record.provenance == context().provenance


def test_they_run_from_the_shipped_files(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["attribute", "-c", f"{CONF}/digits.yaml", "--run", str(finished_run)]
    for name in ("random", "group_size"):
        assert main([*common, "-c", f"attribute/{name}.yaml"]) == 0
        assert ScoreTable.load(finished_run / "scores" / f"{name}-0.parquet").methods == (name,)
    capsys.readouterr()
    assert main([*common, "-c", "attribute/class_probability.yaml"]) == 2  # unlearned without a posterior
    assert "fix:      run guda guide\n" in capsys.readouterr().err


# refused


def test_groups_of_one_size_are_refused() -> None:
    expected = message(
        "the size of these groups ranks none of them",
        "3 of 16 samples",
        "groups of different sizes",
        "leave group_size out",
    )
    with pytest.raises(GroupError, match=expected):
        GroupSize().fit(context())


def test_a_posterior_that_is_not_there_is_refused(tmp_path: Path) -> None:
    expected = message(
        f"there is no posterior of kind guidance in {tmp_path / 'posteriors'}",
        "none of any kind",
        "one with seed 0",
        "run guda guide",
    )
    with pytest.raises(StoreError, match=expected):
        ClassProbability().fit(context(store=tmp_path))


def test_a_posterior_without_a_classifier_is_refused(tmp_path: Path) -> None:
    full, data, hparams = tiny_full(), shades(), {"data": shades().hash, "mirrored": False}
    key = PosteriorKey("image_kernel", data.grouping.names, 0, sha256_json(hparams))
    made_from = full.provenance(data.grouping.hash)
    record = PosteriorRecord.of(key, hparams, made_from, seconds=0, steps=0, network_evaluations=0)
    PosteriorStore(tmp_path).save({}, record)
    expected = message(
        "class_probability needs a classifier",
        "the posterior image_kernel, which has none",
        "the posterior guidance or classifier",
        "set attributor.init_args.posterior to guidance or classifier; guda guide makes it",
    )
    with pytest.raises(ConfigError, match=expected):
        ClassProbability("image_kernel").fit(context(store=tmp_path))


def test_no_queries_no_data_and_negative_seeds_are_refused() -> None:
    with pytest.raises(QueryError, match=r"^there is nothing to score\n"):
        RandomScores().fit(context()).score(Queries((), torch.zeros(0, 1, 8, 8)))
    with pytest.raises(ConfigError, match=r"^random needs the training images\n"):
        RandomScores().fit(AttributionContext(tiny_full()))
    expected = message("seed is out of range", -1, "seed >= 0", "take the usual 0")
    with pytest.raises(ConfigError, match=expected):
        RandomScores(-1)
