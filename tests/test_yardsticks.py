"""Yardsticks: packed, unpacked, refused where they are damaged, and scored through the command line."""

from __future__ import annotations

import io
import json
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import yaml

from guda_lightning.cli.inputs import Inputs
from guda_lightning.cli.lightning import StageCLI
from guda_lightning.cli.main import main
from guda_lightning.cli.yardstick import _is_guided
from guda_lightning.errors import ConfigError, StoreError
from guda_lightning.evaluation.yardsticks import pack_run
from guda_lightning.scores import ScoreTable, stored_errors
from guda_lightning.storage.files import sha256_file
from guda_lightning.storage.full_record import FullRecord
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.seals import refuse_damaged_folder
from guda_lightning.storage.yardsticks import LIMIT, Yardstick, pack, shipped
from toys import message

CONF = Path(__file__).parent / "conf"
MADE = {
    "commands": ["guda retrain"],
    "machine": "a toy",
    "core_seconds": {"retrain 0": 1.0, "retrain 1": 2.0},
}


def plant_oracle(run: RunFolder) -> None:
    """Two seeds of an oracle that is what the run has unlearned; those of the second are larger."""
    table = ScoreTable.load(run.table("retrack", 0))
    for seed in (0, 1):
        columns = table.table.to_pydict()
        columns["method"] = ["retrain"] * len(table)
        columns["seed"] = [seed] * len(table)
        columns["score"] = [score * (1 + seed) for score in columns["score"]]
        planted = pa.table(columns, schema=table.table.schema)
        ScoreTable(planted, table.record).save(run.table("retrain", seed))


@pytest.fixture
def run(finished_run: Path) -> RunFolder:
    run = RunFolder(finished_run)
    plant_oracle(run)
    return run


@pytest.fixture
def packed(run: RunFolder, tmp_path: Path) -> Yardstick:
    return pack_run(run, tmp_path / "packed" / "toy.json", title="A toy", made=MADE)


def test_what_is_unpacked_is_what_was_packed_without_the_oracles_weights(
    run: RunFolder, packed: Yardstick, tmp_path: Path
) -> None:
    root = RunFolder(tmp_path / "unpacked")
    assert packed.unpack(root.root)
    for seed in (0, 1):
        before, after = (ScoreTable.load(where.table("retrain", seed)) for where in (run, root))
        assert after.table.equals(before.table)
        assert after.record == before.record
        errors = stored_errors(before, run.errors)
        for group, found in stored_errors(after, root.errors).items():
            assert found.errors.equal(errors[group].errors)
    names = {path.name for path in run.queries.iterdir()}
    assert {path.name for path in root.queries.iterdir()} == names
    assert not root.store.exists()
    assert not root.table("retrack", 0).exists()
    card = json.loads(packed.path.read_text())
    assert card["oracle_seeds"] == [0, 1]
    assert card["oracle_agreement"]["elbo"]["top1"] == [1.0, 1.0, 1.0]  # equal but for their size
    assert card["machine"] == "a toy"

    assert not packed.unpack(root.root)  # complete
    again = pack_run(root, tmp_path / "again" / "toy.json", title="A toy", made=MADE)
    assert sha256_file(again.archive) == sha256_file(packed.archive)


def test_a_yardstick_is_scored_and_evaluated(
    run: RunFolder, packed: Yardstick, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = RunFolder(tmp_path / "scored")
    given = ["--resamples", "50", "-c", "attribute/similarity.yaml"]
    command = ["evaluate", str(root.root), "--yardstick", str(packed.path), *given]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert f"evaluate: {root.root} unpacked: A toy" in out
    rows = [line.split() for line in out.splitlines()]
    similarity = [row for row in rows if row[:1] == ["similarity-0"]]
    assert len(similarity) == 4  # weightings and costs
    assert similarity[-1][1:3] == ["0", "s"]
    assert similarity[-1][4:6] == ["s", "0"]  # a query, evaluations
    assert rows.count(["retrain-0"]) == 1  # whose cost nobody has kept
    oracle = [row for row in rows if row[:3] == ["oracle", "agreement", "1.00"]]
    assert len(oracle) == 3
    assert sum(row[:1] == ["chance"] for row in rows) == 3
    assert root.table("similarity", 0).is_file()

    table = root.table("similarity", 0)
    kept = root.cost_of(table)
    before = kept.read_bytes(), table.stat().st_mtime_ns
    assert main(command) == 0
    assert "similarity-0.parquet is complete, skipped" in capsys.readouterr().out
    assert (kept.read_bytes(), table.stat().st_mtime_ns) == before


def test_the_classifier_is_trained_for_attributors_that_read_it(
    packed: Yardstick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    monkeypatch.setattr(StageCLI, "run", lambda cli: ran.append(cli.stage.name))
    command = ["evaluate", str(tmp_path / "scored"), "--yardstick", str(packed.path), "--resamples", "10"]
    assert main(command) == 0
    assert ran == ["guide", "attribute", "attribute", "attribute"]  # guidance, nda, similarity


@pytest.mark.parametrize(
    ("text", "guided"),
    [
        ("scoring: {draws: 2}", True),
        ("operator: guidance", True),
        ("operator: retrack", False),
        ("attributor: {class_path: Racing, init_args: {store: mine, operator: guidance}}", True),
        ("attributor: {class_path: Racing, init_args: {store: mine, operator: retrack}}", False),
        ("attributor: {class_path: Coalitions, init_args: {store: mine}}", True),
        ("attributor: {class_path: Similarity, init_args: {top: 10}}", False),
        ("attributor: {class_path: ClassProbability, init_args: {posterior: guidance}}", True),
    ],
)
def test_attributors_read_the_classifier_where_they_say_so(text: str, guided: bool, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(text)
    assert _is_guided(Inputs.of("attribute", ["-c", str(tmp_path / "own.yaml")])) == guided


def test_damage_in_a_yardstick_that_has_moved_gets_no_new_seal(packed: Yardstick, tmp_path: Path) -> None:
    packed = replace(packed, card={**packed.card, "places": {"data.init_args.groups": "groups.csv"}})
    packed.unpack(tmp_path / "before")
    root = (tmp_path / "before").rename(tmp_path / "after")
    scheduler = root / "full" / "scheduler" / "scheduler_config.json"
    whole = scheduler.read_text()
    scheduler.write_text(whole.replace("0.02", "0.03"))
    with pytest.raises(StoreError, match=f"{scheduler} is damaged") as caught:
        packed.unpack(root)
    assert caught.value.fix == f"remove {root} and run the command again"
    scheduler.write_text(whole)
    assert not packed.unpack(root)
    refuse_damaged_folder(root / "full", "")
    written = (root / "yardstick.yaml").stat()
    assert not packed.unpack(root)
    assert (root / "yardstick.yaml").stat().st_ino == written.st_ino  # nothing was written


def test_every_other_command_works_where_a_yardstick_is_unpacked(
    packed: Yardstick, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = RunFolder(tmp_path / "unpacked")
    packed.unpack(root.root)
    config = ["-c", str(root.root / "yardstick.yaml")]
    assert main(["fit", *config]) == 0  # of the same configuration
    assert "is complete, skipped" in capsys.readouterr().out
    assert main(["guide", *config, "-c", f"{CONF}/guide.yaml"]) == 0
    scored = ["-c", f"{CONF}/attribute.yaml", "--operator", "guidance"]
    assert main(["attribute", *config, *scored]) == 0
    assert main(["evaluate", str(root.root), "--resamples", "50"]) == 0
    out = capsys.readouterr().out
    assert "guidance-0" in out
    assert "FADE: mean distance of log-likelihoods" in out


# --- what is refused


def link(name: str, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


def refused(yardstick: Yardstick, root: Path, error: type[Exception], text: str, **given: Path) -> None:
    with pytest.raises(error, match=text):
        yardstick.unpack(root, given.get("images"))
    assert not root.exists() or given.get("keeps") is not None


@pytest.fixture
def small(tmp_path: Path) -> Yardstick:
    """A yardstick that holds nothing but a record, of images that it lacks."""
    config = {"trainer": {}, "data": {"init_args": {"source": {"path": ""}}}}
    images = {"option": "data.init_args.source.path", "what": "the images"}
    places = {"data.init_args.groups": "groups.csv"}
    full = FullRecord("full", "schedule", {}, steps=1, seconds=1.0, network_evaluations=1)
    files = {"full/record.json": full.to_json().encode(), "groups.csv": b"id,group"}
    return pack(
        tmp_path / "small.json",
        files,
        {"title": "small", "config": config, "images": images, "places": places},
    )


def test_a_damaged_archive_is_refused(small: Yardstick, tmp_path: Path) -> None:
    images, root, size = tmp_path / "small.json", tmp_path / "run", small.card["archive"]["bytes"]
    expected = f"{size} bytes, sha256 {small.card['archive']['sha256'][:16]}"
    fix = "install guda-lightning again, or fetch both files of the yardstick again"
    content = bytearray(small.archive.read_bytes())
    content[size // 2] ^= 1
    small.archive.write_bytes(content)
    found = f"{size} bytes, sha256 {sha256_file(small.archive)[:16]}"
    text = message(f"{small.archive} is not the archive of its card", found, expected, fix)
    refused(small, root, StoreError, text, images=images)
    small.archive.unlink()
    text = message(f"{small.archive} is not the archive of its card", "no such file", expected, fix)
    refused(small, root, StoreError, text, images=images)


@pytest.mark.parametrize(
    ("member", "problem"),
    [
        (tarfile.TarInfo("../outside"), "OutsideDestinationError"),
        (tarfile.TarInfo("full/../../outside"), "OutsideDestinationError"),
        (link("full", "/etc"), "AbsoluteLinkError"),
        (link("full/outside", "../../outside"), "LinkOutsideDestinationError"),
    ],
)
def test_nothing_is_unpacked_outside_of_the_run_folder(
    small: Yardstick, tmp_path: Path, member: tarfile.TarInfo, problem: str
) -> None:
    with tarfile.open(small.archive, "w:xz") as archive:
        archive.addfile(member, io.BytesIO())
    sha256, root = sha256_file(small.archive), tmp_path / "run"
    hostile = replace(small, card={**small.card, "archive": {"bytes": 0, "sha256": sha256}})
    with pytest.raises(StoreError, match=re.escape(f"{small.archive} cannot be unpacked")) as caught:
        hostile.unpack(root, small.path)
    assert problem in str(caught.value)
    assert "files within a run folder, as guda packs them" in str(caught.value)
    assert not root.exists()
    assert not (tmp_path / "outside").exists()


def test_a_card_that_lacks_an_entry_is_refused(small: Yardstick) -> None:
    card = dict(small.card)
    del card["config"]
    small.path.write_text(json.dumps(card))
    text = message(
        f"{small.path} is damaged",
        "no entry config",
        "the entries archive, config, images, places, title",
        "install guda-lightning again, or fetch both files of the yardstick again",
    )
    with pytest.raises(StoreError, match=text):
        Yardstick.find(str(small.path))


def test_images_are_asked_for_and_told_to_all_stages(small: Yardstick, tmp_path: Path) -> None:
    root, images = tmp_path / "run", tmp_path / "images.parquet"
    lacking = "the yardstick small does not hold its images"
    refused(small, root, ConfigError, message(lacking, "no --data", "the images", "pass --data FILE"))
    text = message("the images do not exist", f"nothing at {images}", "the images", "correct --data")
    refused(small, root, ConfigError, text, images=images)
    images.touch()
    assert small.unpack(root, images)
    config = yaml.safe_load((root / "yardstick.yaml").read_text())
    record = json.loads((root / "full" / "record.json").read_text())["config"]
    for made in (config, record):
        told = made["data"]["init_args"]
        assert told == {"source": {"path": str(images)}, "groups": str(root / "groups.csv")}
    assert config["run"] == str(root)


def test_a_folder_with_something_else_is_refused(small: Yardstick, tmp_path: Path) -> None:
    root, images = tmp_path / "run", tmp_path / "small.json"
    root.mkdir()
    (root / "mine").touch()
    problem = f"{root} holds something else than the yardstick small"
    expected, fix = "a folder that does not exist yet", "name another run folder, or remove this one"
    text = message(problem, "a run folder or other files", expected, fix)
    refused(small, root, StoreError, text, images=images, keeps=root)
    (root / "yardstick.json").write_text('{"archive": {}}')
    text = message(problem, "another yardstick, or another version of it", expected, fix)
    refused(small, root, StoreError, text, images=images, keeps=root)


def test_a_name_that_does_not_exist_lists_those_that_do(
    monkeypatch: pytest.MonkeyPatch, small: Yardstick
) -> None:
    monkeypatch.setattr("guda_lightning.storage.yardsticks.shipped", lambda: {"small": small.path})
    text = message(
        "there is no yardstick 'smal'", "smal", "small; or the path of a card", "did you mean small?"
    )
    with pytest.raises(ConfigError, match=text):
        Yardstick.find("smal")
    assert Yardstick.find("small") == small == Yardstick.find(str(small.path))


def test_a_card_of_another_format_is_refused(small: Yardstick) -> None:
    small.path.write_text("{}")
    problem = f"{small.path} is no card that this version reads"
    fix = "use the version of guda-lightning that wrote it"
    with pytest.raises(StoreError, match=message(problem, "format unset", "format 2", fix)):
        Yardstick.open(small.path)


def test_an_archive_that_every_installation_would_carry_is_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guda_lightning.storage.yardsticks.LIMIT", 1)
    problem, fix = "the yardstick large is too large", "pack fewer oracle seeds or queries"
    with pytest.raises(StoreError) as error:
        pack(tmp_path / "large.json", {"file": b"content"}, {})
    found = error.value
    assert re.match(
        message(problem, found.found, "at most 1 bytes, as every installation brings it", fix), str(found)
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            [],
            message(
                "there is nothing to evaluate",
                "no run folder and no yardstick",
                "a run folder with an oracle, or an oracle that comes with guda",
                "guda evaluate RUN, or guda evaluate --yardstick digits",
            ),
        ),
        (
            ["runs/mine", "--data", "images"],
            message(
                "--data is about a yardstick, and none is named",
                "--data images",
                "a run folder alone, whose score tables are compared",
                "leave out --data, or add --yardstick NAME",
            ),
        ),
    ],
)
def test_options_of_half_a_yardstick_are_refused(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", *arguments]) == 2
    assert re.match(text, capsys.readouterr().err.removeprefix("error: ").rstrip("\n"))


@pytest.mark.parametrize("name", shipped())
def test_what_comes_with_guda_is_whole(name: str) -> None:
    yardstick = Yardstick.find(name)
    told = yardstick.card["archive"]
    assert yardstick.archive.stat().st_size == told["bytes"] <= LIMIT
    assert sha256_file(yardstick.archive) == told["sha256"]
    entries = ("title", "groups", "training", "oracle_seeds", "commands", "machine", "date", "core_seconds")
    assert all(yardstick.card[entry] for entry in entries)
