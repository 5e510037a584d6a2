"""``guda placebo`` through the command line: random groups, and which queries they explain as well."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor

from guda_lightning import CounterfactualStore, PixelSimilarity, ScoreTable
from guda_lightning.attribution import AttributionContext, FittedAttributor
from guda_lightning.cli.main import main
from guda_lightning.data import Digits, GroupDataModule, load_queries
from guda_lightning.data.grouping import Grouping
from guda_lightning.evaluation import placebo_test
from guda_lightning.posteriors import PosteriorStore
from guda_lightning.stages import placebo as stage
from guda_lightning.stages.partitions import Partitions
from guda_lightning.storage.sealed import write_json

CONF = Path(__file__).parents[1] / "conf"
DIGITS = ["-c", str(CONF / "digits.yaml")]
SIMILAR = [*DIGITS, "-c", "attribute/similarity.yaml"]
FOUR = [*SIMILAR, "--partitions", "4", "--level", "0.5"]  # with `four`
UNLEARN = [*DIGITS, "-c", str(CONF / "unlearn.yaml")]
SCORING = ["-c", str(CONF / "attribute.yaml")]
FEW = [*SCORING, "--scoring.strata", "2", "--scoring.draws", "1"]

Guda = Callable[..., str]
Refused = Callable[..., str]


@pytest.fixture
def guda(capsys: pytest.CaptureFixture[str]) -> Guda:
    """Run a command and return what it printed."""

    def run(*arguments: object) -> str:
        capsys.readouterr()
        code = main(list(map(str, arguments)))
        out, err = capsys.readouterr()
        assert code == 0, err
        return out

    return run


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that refuses and return what it said."""

    def run(*arguments: object) -> str:
        capsys.readouterr()
        assert main(list(map(str, arguments))) == 2
        return capsys.readouterr().err

    return run


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch) -> None:
    """Partitions are alike: four say what the fewest that users may have, 99, would say."""
    monkeypatch.setattr(sys.modules[placebo_test.__module__], "_FEWEST", 4)


def files(folder: Path) -> dict[str, bytes]:
    """All files but those that say what was run."""
    every = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in every.items() if not name.startswith("history/")}


def folders(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_dir()}


def message(problem: str, found: object, expected: object, fix: str) -> str:
    return f"error: {problem}\n  found:    {found}\n  expected: {expected}\n  fix:      {fix}\n"


def top_cosines(queries: Tensor, images: Tensor, members: np.ndarray) -> list[float]:
    """Mean of each query's ten largest cosines with some images, one pair at a time."""
    found = []
    for query in queries.double().flatten(1).numpy():
        cosines = []
        for index in members:
            image = images[index].double().flatten().numpy() / 127.5 - 1
            cosines.append(query @ image / np.linalg.norm(query) / np.linalg.norm(image))
        found.append(float(np.mean(sorted(cosines)[-10:])))
    return found


def matrix(queries: Tensor, images: Tensor, grouping: Grouping) -> Tensor:
    return torch.tensor([top_cosines(queries, images, grouping.forget([name])) for name in grouping.names]).T


def test_the_p_values_are_those_of_random_groups_scored_one_by_one(scored: Path, guda: Guda) -> None:
    before, folders_before = files(scored), folders(scored)
    out = guda("placebo", *SIMILAR, "--run", scored)
    after = files(scored)
    made = {"placebo/similarity-0.parquet", "placebo/queries/similarity-0.parquet"}
    assert after.keys() - before.keys() == made
    assert {name: after[name] for name in before} == before
    assert folders(scored) - folders_before == {"placebo", "placebo/queries"}

    data = GroupDataModule(Digits(), limit=64, seed=0)
    queries = load_queries(scored / "queries", data.image_shape)
    observed = matrix(queries.images, data.images, data.grouping)
    dealt = [data.grouping.permuted(m, "x") for m in range(99)]
    test = placebo_test(observed, torch.stack([matrix(queries.images, data.images, g) for g in dealt]))
    frame = pd.read_parquet(scored / "placebo" / "queries" / "similarity-0.parquet")
    assert frame.columns.tolist() == ["weighting", "query", "p", "adjusted", "attributable"]
    assert frame["weighting"].tolist() == ["cosine"] * 5
    assert frame["query"].tolist() == list(queries.ids)
    assert frame["p"].tolist() == test.p.tolist()
    assert frame["adjusted"].tolist() == test.adjusted.tolist()
    assert frame["attributable"].tolist() == test.attributable.tolist()
    assert len(set(frame["p"])) > 1

    missed = [name for name, found in zip(queries.ids, test.attributable.tolist(), strict=True) if not found]
    assert out == (
        f"placebo similarity-0, weighting cosine: {5 - len(missed)} of 5 queries are attributable: a group "
        "influences them more than random groups of its size do, at a false discovery rate of 5% (99 random "
        "partitions: no p-value below 0.01).\n"
        f"placebo similarity-0, Not attributable: {', '.join(missed)}.\n"
        "placebo similarity-0, No two training images of different groups are nearly the same.\n"
    )
    table = ScoreTable.load(scored / "placebo" / "similarity-0.parquet")
    assert table.record.to_json() == {
        "of": ScoreTable.load(scored / "scores" / "similarity-0.parquet").record.hash,
        "partitions": 99,
        "level": 0.05,
        "near_duplicate_pairs": 0,
        "near_duplicates": [],
    }
    assert len(table.groups) == 99 * 10
    assert table.groups[:2] == ("placebo 0/0", "placebo 0/1")


@pytest.mark.usefixtures("four")
def test_what_is_complete_is_skipped_and_another_level_scores_nothing(
    scored: Path, guda: Guda, monkeypatch: pytest.MonkeyPatch
) -> None:
    guda("placebo", *FOUR, "--run", scored)
    before = files(scored)
    fits: list[AttributionContext] = []
    fit = PixelSimilarity.fit
    monkeypatch.setattr(
        PixelSimilarity,
        "fit",
        lambda self, context: fits.append(context) or fit(self, context),
    )
    skipped = f"placebo: {scored}/placebo/similarity-0.parquet is complete, skipped\n"
    assert guda("placebo", *FOUR, "--run", scored).startswith(skipped)
    assert files(scored) == before
    out = guda("placebo", *FOUR, "--run", scored, "--level", 0.99)
    assert out.startswith(skipped)
    assert "5 of 5 queries are attributable" in out and "at a false discovery rate of 99%" in out
    frame = pd.read_parquet(scored / "placebo" / "queries" / "similarity-0.parquet")
    assert frame["attributable"].all()
    assert ScoreTable.load(scored / "placebo" / "similarity-0.parquet").record.details.level == 0.99
    assert len(fits) == 2  # the real groups alone, once each

    guda("placebo", *FOUR, "--run", scored)
    assert files(scored) == before
    more = guda("placebo", *FOUR, "--run", scored, "--partitions", 5)
    assert "5 random partitions: no p-value below 0.17" in more
    assert len(fits) == 3 + 1 + 5


@pytest.mark.usefixtures("four")
def test_own_queries_have_a_test_of_their_own(scored: Path, guda: Guda) -> None:
    """Also those whose folder is called as a file of the first test is."""
    guda("placebo", *FOUR, "--run", scored)
    before = files(scored / "placebo")
    for stage_name, options in (("attribute", SIMILAR), ("placebo", FOUR)):
        guda(stage_name, *options, "--run", scored, "--queries", scored / "queries")
    after = files(scored / "placebo")
    names = ("similarity-0.parquet", "similarity-0-queries.parquet")
    assert after.keys() == {*names, *(f"queries/{name}" for name in names)}
    assert {name: after[name] for name in before} == before
    guda("placebo", *FOUR, "--run", scored)
    assert files(scored / "placebo") == after


@pytest.mark.usefixtures("four")
def test_a_named_table_has_a_test_of_its_own(scored: Path, guda: Guda, refused: Refused) -> None:
    named = ["--run", scored, "--name", "mine"]
    assert refused("placebo", *FOUR, *named) == message(
        "the real groups have not been scored by similarity with these options",
        f"no table {scored}/scores/similarity-0-mine.parquet",
        "the score table that random groups are compared with",
        "run guda attribute with the same queries, seed, name and scoring first",
    )
    guda("attribute", *SIMILAR, *named)
    guda("placebo", *FOUR, *named)
    made = {"similarity-0-mine.parquet", "queries/similarity-0-mine.parquet"}
    assert files(scored / "placebo").keys() == made


@pytest.mark.usefixtures("four")
def test_it_goes_on_where_it_was_interrupted(
    scored: Path, guda: Guda, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    untouched = Path(shutil.copytree(scored, scored.with_name("untouched")))
    guda("placebo", *FOUR, "--run", untouched)

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stage, "near_duplicates", interrupt)
        assert main(["placebo", *FOUR, "--run", str(scored)]) == 130
    parts = scored / "placebo" / "similarity-0"
    assert {path.name for path in parts.iterdir()} == {"record.json", *(f"{m}.parquet" for m in range(4))}
    for number in (1, 3):
        (parts / f"{number}.parquet").unlink()
    fits: list[str] = []
    fit = PixelSimilarity.fit

    def noted(self: PixelSimilarity, context: AttributionContext) -> FittedAttributor:
        assert context.grouping is not None
        fits.append(context.grouping.names[0])
        return fit(self, context)

    monkeypatch.setattr(PixelSimilarity, "fit", noted)
    guda("placebo", *FOUR, "--run", scored)
    assert fits == ["0", "placebo 1/0", "placebo 3/0"]
    assert files(scored / "placebo") == files(untouched / "placebo")
    assert folders(scored / "placebo") == {"queries"}


@pytest.mark.usefixtures("four")
def test_an_unfinished_test_of_something_else_is_not_gone_on_with(
    scored: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stage, "near_duplicates", interrupt)
        assert main(["placebo", *FOUR, "--run", str(scored)]) == 130
    parts = scored / "placebo" / "similarity-0"
    record = json.loads((parts / "record.json").read_text())
    write_json(parts / "record.json", {"config": {"of": "another table"}})
    assert refused("placebo", *FOUR, "--run", scored) == message(
        f"{parts} was made with another configuration",
        "of = another table",
        f"of = {record['config']['of']}",
        f"use another --run, restore the configuration, or remove {parts}",
    )


def test_what_cannot_be_tested_is_refused_before_any_work(scored: Path, refused: Refused) -> None:
    run = ["placebo", *SIMILAR, "--run", scored]
    assert refused(*run, "--attributor.init_args.groups", '["3", "7"]') == message(
        "random groups stand for all real ones",
        "an attributor of 2 of 10 groups",
        "all groups that have samples",
        "leave out the attributor's groups",
    )
    objective = "guda_lightning.unlearning.ReTrack"
    assert refused(*run, "--objective", objective).startswith(
        "error: objective is about counterfactuals, and another attributor was given\n"
    )
    assert not (scored / "placebo").exists()


def test_groups_that_were_not_scored_are_refused(finished_run: Path, scored: Path, refused: Refused) -> None:
    fix = "run guda attribute with the same queries, seed, name and scoring first"
    expected = "the score table that random groups are compared with"
    problem = "the real groups have not been scored by similarity with these options"
    before = files(finished_run)
    assert refused("placebo", *SIMILAR, "--run", finished_run) == message(
        problem, f"no table {finished_run / 'scores' / 'similarity-0.parquet'}", expected, fix
    )
    assert files(finished_run) == before
    other = ["--attributor.init_args.top", 3]
    assert refused("placebo", *SIMILAR, "--run", scored, *other) == message(
        problem, f"another table at {scored / 'scores' / 'similarity-0.parquet'}", expected, fix
    )
    problem = "the real groups have not been scored by retrack with these options"
    unlearned = finished_run / "scores" / "retrack-0.parquet"
    other = [*SCORING, "--scoring.draws", 3]
    assert refused("placebo", *UNLEARN, *other, "--run", finished_run) == message(
        problem, f"another table at {unlearned}", expected, fix
    )
    assert not (finished_run / "placebo").exists() and not (scored / "placebo").exists()


def test_a_test_that_could_find_nothing_is_refused_at_once(scored: Path, refused: Refused) -> None:
    run = ["placebo", *SIMILAR, "--run", scored]
    assert refused(*run, "--partitions", 98) == message(
        "there are too few placebo partitions",
        "98, whose smallest possible p-value is 0.0101",
        "at least 99, for a smallest p-value of 0.01",
        "pass --partitions 99, or more",
    )
    for level in (0.001, 1.0):
        assert refused(*run, "--level", level) == message(
            "the level is out of range",
            level,
            "0.01, the smallest p-value of 99 partitions, to 1",
            "take the usual 0.05, or make more partitions",
        )
    assert refused(*run, "--steps", 0) == message(
        "steps is out of range", 0, "steps >= 1", "pass --steps 1 or more"
    )
    assert not (scored / "placebo").exists()


def save(folder: Path, images: dict[str, np.ndarray]) -> Path:
    for name, image in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
    return folder


def own_data(folder: Path) -> str:
    source = f"{{class_path: guda_lightning.data.ImageFolder, init_args: {{path: {folder}}}}}"
    return f"data: {{init_args: {{source: {source}, limit: null}}}}\n"


def test_copies_of_a_tight_group_are_attributable_and_noise_is_not(tmp_path: Path, guda: Guda) -> None:
    def noise() -> np.ndarray:
        return np.random.randint(0, 256, (8, 8), dtype=np.uint8)

    stripes = np.zeros((8, 8), np.uint8)
    stripes[::2] = 230
    tight = [(stripes + np.random.randint(0, 25, (8, 8))).astype(np.uint8) for _ in range(12)]
    train = {f"tight/{i}.png": image for i, image in enumerate(tight)}
    # Many more of noise, so that a random group holds about as much of it as these groups do.
    train |= {f"{group}/{i}.png": noise() for group in ("first", "second") for i in range(60)}
    queries = {f"copy-{i}.png": image for i, image in enumerate(tight[:5])}
    queries |= {f"noise-{i}.png": noise() for i in range(5)}
    config = tmp_path / "own.yaml"
    config.write_text(own_data(save(tmp_path / "train", train)))
    asked = ["-c", config, "--run", tmp_path / "run", "--queries", save(tmp_path / "asked", queries)]
    guda("fit", *DIGITS, *asked[:-2], "--trainer.max_steps", 1)
    guda("attribute", *SIMILAR, *asked)
    out = guda("placebo", *SIMILAR, *asked)
    frame = pd.read_parquet(tmp_path / "run" / "placebo" / "queries" / "similarity-0-asked.parquet")
    found = dict(zip(frame["query"], frame["attributable"], strict=True))
    assert found == {Path(name).stem: name.startswith("copy") for name in queries}
    assert (frame["p"][:5] == 0.01).all() and (frame["p"][5:] > 0.05).all()
    assert "Not attributable: noise-0, noise-1, noise-2, noise-3, noise-4.\n" in out


@pytest.mark.usefixtures("four")
def test_copies_in_another_group_are_named(scored: Path, tmp_path: Path, guda: Guda) -> None:
    digits = GroupDataModule(Digits(), limit=40).images[:, 0].numpy()
    images = {f"{'ab'[i % 2]}/{i}.png": image for i, image in enumerate(digits)}
    images |= {f"b/copy of {i}.png": digits[i] for i in (0, 2)}
    config = tmp_path / "own.yaml"
    config.write_text(own_data(save(tmp_path / "own", images)))
    asked = [
        "-c",
        config,
        "--run",
        tmp_path / "run",
        "--queries",
        scored / "queries",
        "--full",
        scored / "full",
    ]
    guda("attribute", *SIMILAR, *asked)
    assert guda("placebo", *FOUR, *asked).endswith(
        "placebo similarity-0-queries, 2 pairs of training images in different groups are nearly the same: "
        "without one group, the other still explains their queries. a/0.png and b/copy of 0.png, "
        "a/2.png and b/copy of 2.png.\n"
    )


@dataclass(frozen=True)
class Trained:
    """A method that trains, as a test of few groups and steps runs it."""

    name: str
    make: list[object]  # the stage that trains
    score: list[object]  # more options of guda attribute
    test: list[object]  # more options of guda placebo
    groups: dict[str, slice]  # of the 24 samples
    cost: str  # that is said for 3 partitions


CLASSIFIER = ["--classifier.channels", "[]", "--classifier.steps", 2, "--classifier.width", 8]
CLASSIFIER += ["--classifier.held_out", 0]
UNLEARNED = Trained(
    "retrack",
    ["unlearn", *UNLEARN, "--steps", 1],
    [],
    [*UNLEARN, "--steps", 1],
    {"a": slice(0, 10)},
    "placebo: 3 partitions x 1 groups (retrack): about ",
)
GUIDED = Trained(
    "guidance",
    ["guide", *DIGITS, *CLASSIFIER],
    ["--operator", "guidance"],
    [*DIGITS, *CLASSIFIER],
    {"a": slice(0, 10), "b": slice(6, 20)},  # overlapping, and some in no group
    "placebo: 3 partitions x 1 posterior (guidance): about ",
)


def write_groups(path: Path, ids: Sequence[str], members: Mapping[str, Iterable[int]]) -> Path:
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "group"])
        for name, indices in members.items():
            table.writerows([ids[index], name] for index in indices)
    return path


def scored_by(method: Trained, tmp_path: Path, guda: Guda) -> list[object]:
    """A run of a network with few groups and two queries, made and scored by a method; its options."""
    ids = GroupDataModule(Digits(), limit=24, seed=0).ids
    members = {name: range(24)[part] for name, part in method.groups.items()}
    groups = write_groups(tmp_path / "groups.csv", ids, members)
    options = ["--run", tmp_path / "run", "--data.init_args.groups", groups, "--data.init_args.limit", 24]
    guda("fit", *DIGITS, *options)
    guda("sample", *DIGITS, *options, "--num", 2, "--steps", 3)
    guda(*method.make, *options)
    guda("attribute", *DIGITS, *FEW, *method.score, *options)
    return options


@pytest.mark.parametrize("method", [UNLEARNED, GUIDED], ids=["unlearning", "guidance"])
@pytest.mark.usefixtures("four")
def test_training_is_repeated_on_random_groups_and_leaves_only_scores(
    method: Trained, tmp_path: Path, guda: Guda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guda_lightning.posteriors.windows.NOISE_LEVELS", 2)  # of the patch kernel
    options, run, name = scored_by(method, tmp_path, guda), tmp_path / "run", f"{method.name}-0"
    before, folders_before = files(run), folders(run)

    score = Partitions._score

    def first_only(self: Partitions, number: int) -> ScoreTable:
        if number:
            raise KeyboardInterrupt
        return score(self, number)

    placebo = ["placebo", *method.test, *FEW, *options, "--partitions", 4, "--level", 0.5]
    with monkeypatch.context() as patch:  # after the first partition
        patch.setattr(Partitions, "_score", first_only)
        assert main(list(map(str, placebo))) == 130
    first = (run / "placebo" / name / "0.parquet").read_bytes()
    assert not (run / "placebo" / name / "store").exists()

    out = guda(*placebo)
    assert out.startswith(method.cost)
    after = files(run)
    made = {f"placebo/{name}.parquet", f"placebo/queries/{name}.parquet"}
    assert after.keys() - before.keys() == made
    assert {name: after[name] for name in before} == before
    assert folders(run) - folders_before == {"placebo", "placebo/queries"}

    # The random groups' scores are those that their own grouping gives by the stages that anyone would run.
    data = GroupDataModule(Digits(), limit=24, seed=0)
    real = GroupDataModule(Digits(), limit=24, seed=0, groups=str(tmp_path / "groups.csv")).grouping
    dealt = real.permuted(2, "placebo 2")
    members = {name: dealt.forget([name]) for name in dealt.names}
    groups = write_groups(tmp_path / "dealt.csv", data.ids, members)
    other = ["--run", tmp_path / "other", "--full", shutil.copytree(run / "full" / "unet", tmp_path / "unet")]
    other += ["--data.init_args.groups", groups, "--data.init_args.limit", 24]
    guda(*method.make, *other)
    guda("attribute", *DIGITS, *FEW, *method.score, *other, "--queries", run / "queries")
    expected = ScoreTable.load(tmp_path / "other" / "scores" / f"{name}-queries.parquet")
    random = ScoreTable.load(run / "placebo" / f"{name}.parquet")
    observed = ScoreTable.load(run / "scores" / f"{name}.parquet")
    frame = pd.read_parquet(run / "placebo" / "queries" / f"{name}.parquet")
    count = len(method.groups)
    for weighting in ("elbo", "uniform"):
        part, wanted = random.select(weighting=weighting), expected.select(weighting=weighting)
        columns = [part.groups.index(name) for name in wanted.groups]
        assert columns == [*range(2 * count, 3 * count)]
        torch.testing.assert_close(part.matrix()[:, columns], wanted.matrix(), rtol=1e-9, atol=1e-9)
        partitions = torch.stack(part.matrix().split(count, dim=1))
        test = placebo_test(observed.select(weighting=weighting).matrix(), partitions, level=0.5)
        assert frame["p"][frame["weighting"] == weighting].tolist() == test.p.tolist()
    (tmp_path / "first.parquet").write_bytes(first)
    assert ScoreTable.load(tmp_path / "first.parquet").groups == random.groups[:count]
    stores = CounterfactualStore(run / "store"), PosteriorStore(run / "store")
    made_of = 1 if method is UNLEARNED else 3  # guidance, and the classifier and the kernel that it mixes
    assert sum(len(store.records()) for store in stores) == made_of  # of the real groups


def test_two_methods_at_once_are_refused(finished_run: Path, refused: Refused) -> None:
    classifier = ["--classifier.steps", 2]
    assert refused("placebo", *UNLEARN, *classifier, "--run", finished_run) == message(
        "an objective unlearns and a posterior guides, and both were given",
        "an objective ReTrack, and the posterior guidance",
        "one of them",
        "leave out --objective, or --posterior",
    )
    classifier = ["--posterior", "patch_kernel"]
    assert refused("placebo", *SIMILAR, *classifier, "--run", finished_run) == message(
        "posterior is about counterfactuals, and another attributor was given",
        "posterior patch_kernel",
        "an attributor, or options of counterfactuals",
        "leave out --posterior, or the attributor",
    )
    assert not (finished_run / "placebo").exists()


def test_guidance_needs_the_posterior_of_the_real_groups(finished_run: Path, refused: Refused) -> None:
    other = ["--classifier.steps", 2]
    hparams = refused("placebo", *DIGITS, *other, "--run", finished_run)
    assert re.fullmatch(
        re.escape(
            message(
                f"there is no posterior of kind guidance in {finished_run / 'store' / 'posteriors'}",
                "none of any kind",
                "one with seed 0, hyper-parameters HASH",
                "run guda guide",
            )
        ).replace("HASH", "[0-9a-f]{64}"),
        hparams,
    )
    assert not (finished_run / "placebo").exists()
