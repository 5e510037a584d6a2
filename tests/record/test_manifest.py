"""``guda manifest`` and ``guda verify``: what is written is complete, and what is changed is named."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from guda_lightning import ScoreTable
from guda_lightning.cli.commands import find
from guda_lightning.cli.main import main
from guda_lightning.data import Digits, GroupDataModule
from guda_lightning.errors import GudaError
from guda_lightning.scores.record import ChunkRecord
from guda_lightning.storage import manifest as module
from guda_lightning.storage.manifest import STATEMENT, changed_files
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.schema import schema_of, violations
from guda_lightning.storage.signing import private_key, public_key, signed
from guda_lightning.storage.walked import walked
from toys import message

Out = pytest.CaptureFixture[str]


def manifest(run: Path, *options: str | Path) -> dict[str, Any]:
    assert main(["manifest", str(run), *map(str, options)]) == 0
    document: dict[str, Any] = json.loads((run / "manifest.json").read_text("utf-8"))
    return document


def verified(capsys: Out, path: Path, *options: str | Path) -> tuple[int, list[str]]:
    """Exit code and problems of ``guda verify``."""
    capsys.readouterr()
    code = main(["verify", str(path), "--json", *map(str, options)])
    found = json.loads(capsys.readouterr().out)
    assert found["holds"] is (code == 0)
    return code, found["problems"]


def write_key(
    path: Path,
    key: Any,
    form: PrivateFormat = PrivateFormat.OpenSSH,
    locked: KeySerializationEncryption | None = None,
) -> Path:
    """Write a key and, beside it, the public one, as ``ssh-keygen`` does."""
    public = (Encoding.OpenSSH, PublicFormat.OpenSSH)
    if form is PrivateFormat.PKCS8:
        public = (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    path.write_bytes(key.private_bytes(Encoding.PEM, form, locked or NoEncryption()))
    path.with_suffix(".pub").write_bytes(key.public_key().public_bytes(*public))
    return path


@pytest.fixture(scope="module", params=[PrivateFormat.OpenSSH, PrivateFormat.PKCS8], ids=["ssh", "pem"])
def key(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_key(tmp_path_factory.mktemp("key") / "key", Ed25519PrivateKey.generate(), request.param)


def test_a_manifest_says_what_the_run_holds_and_fits_its_schema(finished_run: Path) -> None:
    document = manifest(finished_run)
    jsonschema.Draft202012Validator.check_schema(schema_of())
    jsonschema.validate(document, schema_of(), jsonschema.Draft202012Validator)
    assert violations(document, schema_of()) == []
    assert document["statement"] == STATEMENT
    assert "certify that data, or what a model has learnt from them, were deleted" in STATEMENT
    files = {path.relative_to(finished_run).as_posix(): path for path in finished_run.rglob("*.*")}
    files = {name: path for name, path in files.items() if path.is_file() and name != "manifest.json"}
    assert document["files"] == {
        name: {"bytes": len(data := path.read_bytes()), "sha256": hashlib.sha256(data).hexdigest()}
        for name, path in files.items()
        if name != ".fit.json"
    }
    assert [step["stage"] for step in document["stages"]] == ["fit", "sample", "unlearn", "attribute"]
    assert {"stage": "unlearn", "key": "model.init_args.seed", "seed": 0} in document["seeds"]
    assert document["full"] == json.loads((finished_run / "full" / "record.json").read_text())
    assert {model["operator"] for model in document["models"].values()} == {"retrack"}
    assert document["by"]["code"]["version"] == document["stages"][0]["environment"]["code"]["version"]


def test_data_are_hashed_group_by_group(finished_run: Path) -> None:
    (found,) = manifest(finished_run)["data"]
    data = GroupDataModule(Digits(), limit=64)
    assert found["samples"] == 64 and found["data_hash"] == data.hash
    for name in data.grouping.names:
        pictures = [
            (data.ids[row], data.images[row].numpy().tobytes()) for row in data.grouping.forget([name])
        ]
        digests = sorted(hashlib.sha256(f"{one}\n".encode() + seen).hexdigest() for one, seen in pictures)
        text = json.dumps(digests, separators=(",", ":"))
        expected = {"samples": len(pictures), "sha256": hashlib.sha256(text.encode()).hexdigest()}
        assert found["groups"][name] == expected


def test_scores_are_those_of_the_table_with_what_the_page_says_of_them(finished_run: Path) -> None:
    (found,) = manifest(finished_run)["scores"]
    table = ScoreTable.load(finished_run / found["table"])
    assert (tuple(found["queries"]), tuple(found["groups"])) == (table.queries, table.groups)
    assert [view["weighting"] for view in found["views"]] == list(table.weightings)
    shares = table.select(weighting="uniform").matrix()
    shares = 100 * shares / shares.abs().sum(dim=1, keepdim=True)
    view = found["views"][list(table.weightings).index("uniform")]
    assert view["scores"] == [pytest.approx(row, rel=1e-6) for row in shares.tolist()]
    assert all(lead == float(f"{lead:.8g}") for lead in view["margins"])
    assert view["standing"]["level"] == "untested" and not view["unit"]["sized"]
    assert {group: one["grade"] for group, one in found["verdicts"].items()} == {
        group: verdict.grade for group, verdict in table.verdicts.items()
    }
    assert main(["report", str(finished_run), "--format", "json"]) == 0
    page = json.loads((finished_run / "report" / "report.json").read_text("utf-8"))
    assert [view["standing"] for view in page["views"]] == [view["standing"] for view in found["views"]]


def test_a_table_that_was_scored_in_chunks_is_listed_with_all_of_its_queries(
    finished_run: Path, capsys: Out
) -> None:
    (whole,) = manifest(finished_run)["scores"]
    path = finished_run / whole["table"]
    table, verdicts = ScoreTable.load(path), ScoreTable.load_verdicts(path)
    parts = [
        replace(table, table=table.table.filter(pc.is_in(table.table["query"], pa.array(queries))))
        for queries in (table.queries[:2], table.queries[2:4], table.queries[4:])
    ]
    chunks = tuple(ChunkRecord(len(part.queries), str(number)) for number, part in enumerate(parts))
    ScoreTable.save_parts(path, parts, replace(table.record, chunks=chunks), verdicts)
    (found,) = manifest(finished_run)["scores"]
    assert len(found["queries"]) == 5
    assert {**found, "record": whole["record"]} == whole
    assert verified(capsys, finished_run / "manifest.json") == (0, [])


def test_an_unchanged_folder_has_the_same_manifest_wherever_it_lies(finished_run: Path, capsys: Out) -> None:
    before = manifest(finished_run)
    moved = finished_run.rename(finished_run.with_name("moved"))
    capsys.readouterr()
    assert main(["manifest", str(moved), "--json"]) == 0
    after = json.loads(capsys.readouterr().out)
    assert {**after, "written": before["written"], "run": before["run"]} == before
    assert verified(capsys, moved / "manifest.json") == (0, [])


def test_the_schema_is_read_as_by_another_validator(finished_run: Path) -> None:
    document, schema = manifest(finished_run), schema_of()
    validator = jsonschema.Draft202012Validator(schema)
    draw = random.Random(0)
    refused = 0
    for _ in range(60):
        edited = copy.deepcopy(document)
        _edit(edited, draw)
        expected = [error.message for error in validator.iter_errors(edited)]
        assert bool(violations(edited, schema)) == bool(expected), expected
        refused += bool(expected)
    assert refused > 20


def _edit(value: Any, draw: random.Random) -> None:
    """Change one thing somewhere in a JSON value."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = draw.choice(keys)
    if isinstance(value[key], dict | list) and value[key] and draw.random() < 0.8:
        _edit(value[key], draw)
    elif draw.random() < 0.3:
        del value[key]
    else:
        value[key] = draw.choice([None, True, -1, 0.5, "", "zzz", [], {}, [1], {"a": 1}])


def test_one_flipped_bit_of_any_file_is_named(finished_run: Path, capsys: Out) -> None:
    document, seen = manifest(finished_run), set()
    assert len(document["files"]) > 25
    for name in document["files"]:
        path = finished_run / name
        data = path.read_bytes()
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
        problems = changed_files(document, RunFolder(finished_run))
        if path.suffix not in seen:  # one of each kind through the command, which reads the scores, too
            code, problems = verified(capsys, finished_run / "manifest.json")
            assert code == 1
        assert problems[0].startswith(f"changed: {name}, sha256 "), name
        path.write_bytes(data)
        seen.add(path.suffix)
    assert verified(capsys, finished_run / "manifest.json") == (0, [])


def test_missing_and_added_files_are_named(finished_run: Path, capsys: Out) -> None:
    manifest(finished_run)
    (finished_run / "queries" / "sample-1.png").unlink()
    (finished_run / "scores" / "notes.txt").write_text("new")
    (finished_run / "scores" / ".x.0123456789abcdef.tmp").write_text("temporary")
    (finished_run / "scores" / "cats.tmp").write_text("no temporary of guda, but a name of somebody's")
    code, problems = verified(capsys, finished_run / "manifest.json")
    added = ["added: scores/cats.tmp", "added: scores/notes.txt"]
    assert (code, problems) == (1, ["missing: queries/sample-1.png", *added])


def test_a_manifest_of_what_is_damaged_is_refused(finished_run: Path, capsys: Out) -> None:
    """It would say of damage for ever that it is what was made, with a signature."""
    (record, *_), (weights, *_) = (
        sorted(finished_run.glob(f"store/retrack-*/{name}")) for name in ("record.json", "model.safetensors")
    )
    picture, table = finished_run / "queries" / "sample-1.png", finished_run / "scores" / "retrack-0.parquet"
    nearest = finished_run / "scores" / "nearest" / "retrack-0.safetensors"
    for path in (record, weights, picture, table, nearest, finished_run / "examples.safetensors"):
        before = path.read_bytes()
        if path == record:
            path.write_bytes(before.replace(b'"steps": ', b'"steps": 9'))
        else:
            path.write_bytes(before[:-5] + bytes([before[-5] ^ 1]) + before[-4:])
        capsys.readouterr()
        assert main(["manifest", str(finished_run)]) == 2, path
        assert capsys.readouterr().err.startswith(f"error: {path} "), path
        path.write_bytes(before)
    before = picture.read_bytes()
    for content in (before + b"1", None):
        picture.unlink() if content is None else picture.write_bytes(content)
        with pytest.raises(
            GudaError,
            match=message(
                f"{picture} is {'missing' if content is None else 'damaged'}",
                "no such file"
                if content is None
                else f"contents with sha256 {hashlib.sha256(content).hexdigest()[:16]}",
                f"contents with sha256 {hashlib.sha256(before).hexdigest()[:16]}, as was written",
                "restore it, or remove it and run the command that makes it again",
            ),
        ):
            module.manifest_of(RunFolder(finished_run), [])
    picture.write_bytes(before)
    other = finished_run / "report" / "manifest-of-last-year.json"  # holds the full model's seal
    other.write_text(json.dumps(manifest(finished_run)), "utf-8")
    other.with_name("mine.json").write_text("{}")
    assert verified(capsys, edited(lambda one: None, finished_run)) == (0, [])


def test_a_result_or_a_key_is_never_replaced(finished_run: Path, key: Path) -> None:
    table = finished_run / "scores" / "retrack-0.parquet"
    command = find("manifest")
    for path, found in (
        (table, "a file without guda-manifest-1"),
        (key, "a file without guda-manifest-1"),
        (finished_run.parent, "a folder"),
    ):
        before = path.read_bytes() if path.is_file() else b""
        with pytest.raises(
            GudaError,
            match=message(
                f"{path} was not written by guda manifest, which would replace it",
                found,
                "no such file, or what guda manifest wrote",
                "move it away",
            ),
        ):
            command.run([str(finished_run), "--key", str(key), "--output", str(path)])
        assert path.is_dir() or path.read_bytes() == before
    output = finished_run.parent / "mine.json"
    for _ in range(2):
        assert main(["manifest", str(finished_run), "--output", str(output)]) == 0


def test_a_folder_that_cannot_be_read_is_refused_by_its_name(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    manifest(finished_run)
    scandir: Callable[[str], Any] = os.scandir

    def listed(path: str) -> Any:
        if path == f"{finished_run}/full/unet/":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", listed)
    for command in (["manifest", str(finished_run)], ["verify", f"{finished_run}/manifest.json"]):
        capsys.readouterr()
        assert main(command) == 2
        assert capsys.readouterr() == (
            "",
            f"error: {finished_run}/full/unet cannot be read\n"
            "  found:    Permission denied\n"
            "  expected: a run folder of which every file can be listed\n"
            "  fix:      give yourself the right to read it, or move it out of the run folder\n",
        )


def test_what_is_gone_while_the_manifest_is_written_is_not_in_it(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = manifest(finished_run)
    files = walked(RunFolder(finished_run))
    files["scores/a.parts/0"] = finished_run / "scores" / "a.parts" / "0"
    monkeypatch.setattr(module, "walked", lambda run: files)
    assert manifest(finished_run)["files"] == document["files"]
    assert changed_files(document, RunFolder(finished_run)) == []
    document["files"]["scores/a.parts/0"] = {"bytes": 1, "sha256": "0" * 64}
    assert changed_files(document, RunFolder(finished_run)) == ["missing: scores/a.parts/0"]


def test_a_manifest_of_two_states_of_a_run_is_refused(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    def writing(run: RunFolder) -> list[dict[str, Any]]:
        (run.scores / "later.parquet").write_text("a table of a command that works beside it")
        return []

    monkeypatch.setattr("guda_lightning.report.scored.scored", writing)
    assert main(["manifest", str(finished_run)]) == 2
    assert capsys.readouterr().err == (
        f"error: {finished_run} changed while its manifest was written\n"
        "  found:    scores/later.parquet, written meanwhile\n"
        "  expected: a run folder in which no command works\n"
        "  fix:      run guda manifest again once it has ended; "
        f"guda doctor {finished_run} says who works there\n"
    )
    assert not (finished_run / "manifest.json").exists()


def test_folders_of_a_user_that_are_linked_into_the_run_are_named_and_not_listed(
    finished_run: Path, capsys: Out
) -> None:
    images = finished_run.with_name("images")
    images.mkdir()
    (images / "1.png").write_text("1")
    (finished_run / "data").symlink_to(images)
    document = manifest(finished_run)
    assert document["left_out"] == ["data"]
    assert not any(name.startswith("data/") for name in document["files"])
    (images / "1.png").write_text("another one")
    assert verified(capsys, finished_run / "manifest.json") == (0, [])
    (finished_run / "data").unlink()
    assert verified(capsys, finished_run / "manifest.json") == (1, ["records: other left_out"])


def edited(edit: Callable[[dict[str, Any]], object], finished_run: Path) -> Path:
    document = manifest(finished_run)
    edit(document)
    path = finished_run / "manifest.json"
    path.write_text(json.dumps(document), "utf-8")
    return path


def test_scores_that_are_not_those_of_the_table_are_named(finished_run: Path, capsys: Out) -> None:
    def raise_one(document: dict[str, Any]) -> None:
        document["scores"][0]["views"][1]["scores"][2][0] += 1

    code, problems = verified(capsys, edited(raise_one, finished_run))
    assert (code, problems) == (1, ["scores of scores/retrack-0.parquet: other scores than in the table"])


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda one: one["stages"][1]["config"].update(seed=7), "records: other stages"),
        (lambda one: one["full"].update(approved=None), "records: other full"),
        (lambda one: one["data"][0]["groups"]["3"].update(samples=1), "records: other data"),
        (lambda one: one.update(statement="All deleted."), "statement: other words than guda manifest's"),
        (
            lambda one: one["scores"][0]["views"][0]["standing"].update(headline="Proven."),
            "scores of scores/retrack-0.parquet: other words than this version of guda says",
        ),
        (
            lambda one: one["scores"].insert(0, {**one["scores"][0], "queries": ["other"]}),
            "scores of scores/retrack-0.parquet: there twice",
        ),
        (lambda one: one.update(extra=1), "extra is not known"),
        (lambda one: one.pop("files"), "the document has no files"),
    ],
)
def test_what_else_is_edited_is_named(
    edit: Callable[[dict[str, Any]], object], problem: str, finished_run: Path, capsys: Out
) -> None:
    code, problems = verified(capsys, edited(edit, finished_run))
    assert (code, problems) == (1, [problem])


def test_a_signature_is_of_everything_else(finished_run: Path, key: Path, capsys: Out) -> None:
    document, path = manifest(finished_run, "--key", key), finished_run / "manifest.json"
    assert document["signature"]["public_key"].startswith("ssh-ed25519 ")
    assert verified(capsys, path) == (0, [])
    assert verified(capsys, path, "--key", key.with_suffix(".pub")) == (0, [])
    for edit in (
        lambda one: one["scores"][0]["views"][0]["standing"].update(headline="Proven."),
        lambda one: one["signature"].update(fingerprint="SHA256:other"),
        lambda one: one["signature"].update(value=one["signature"]["value"][::-1]),
        lambda one: one.update(written="2020-01-01T00:00:00+00:00"),
    ):
        changed = copy.deepcopy(document)
        edit(changed)
        path.write_text(json.dumps(changed), "utf-8")
        assert verified(capsys, path) == (1, ["signature: it is not of these contents"])
    path.write_text(json.dumps(document), "utf-8")  # other blanks are no other contents
    assert verified(capsys, path) == (0, [])


def test_what_a_placebo_test_found_is_no_word(finished_run: Path, key: Path, capsys: Out) -> None:
    document = manifest(finished_run)
    view = document["scores"][0]["views"][0]
    view["unattributable"] = [True] * len(view["scores"])
    (finished_run / "manifest.json").write_text(json.dumps(signed(document, private_key(key))), "utf-8")
    assert verified(capsys, finished_run / "manifest.json") == (
        1,
        ["scores of scores/retrack-0.parquet: other unattributable than in the table"],
    )


def test_a_signature_by_another_key_and_none_are_told(finished_run: Path, key: Path, capsys: Out) -> None:
    path, public = finished_run / "manifest.json", key.with_suffix(".pub")
    manifest(finished_run)
    assert verified(capsys, path, "--key", public) == (1, ["signature: there is none"])
    other = write_key(finished_run.parent / "other", Ed25519PrivateKey.generate())
    by = manifest(finished_run, "--key", other)["signature"]["fingerprint"]
    assert verified(capsys, path, "--key", public) == (1, [f"signature: by another key, {by}"])
    assert main(["verify", str(path)]) == 0
    said = capsys.readouterr().out
    assert (
        f"signature: by {by}. Without --key this shows only that nothing was changed after whoever holds "
        "that key signed it, and not who that is" in said
    )
    assert f"note: {STATEMENT}" in said


PRIVATE = "a private Ed25519 key without a passphrase, in PEM or OpenSSH format"
MAKE = "ssh-keygen -t ed25519 -N '' -f KEY makes one"


def test_keys_that_cannot_sign_are_refused_with_the_fix(tmp_path: Path) -> None:
    rsa = write_key(tmp_path / "rsa", generate_private_key(65537, 2048))
    locked = write_key(
        tmp_path / "locked",
        Ed25519PrivateKey.generate(),
        PrivateFormat.PKCS8,
        BestAvailableEncryption(b"secret"),
    )
    missing = tmp_path / "missing"
    cases = [
        (rsa, "a key of another kind, RSAPrivateKey", MAKE),
        (
            locked,
            "a key that a passphrase protects",
            "write it once more without one: ssh-keygen -p -N '' -f COPY of the key",
        ),
        (
            rsa.with_suffix(".pub"),
            "a public key, which signs nothing",
            "pass the private key beside it, the file without .pub",
        ),
    ]
    for path, found, fix in cases:
        with pytest.raises(GudaError, match=message(f"the key {path} cannot be used", found, PRIVATE, fix)):
            private_key(path)
    for read in (private_key, public_key):
        with pytest.raises(
            GudaError,
            match=message(
                f"the key {missing} cannot be used",
                f"no file {missing}",
                "a file with a key",
                f"correct the path; {MAKE}",
            ),
        ):
            read(missing)
    with pytest.raises(
        GudaError,
        match=message(
            f"the key {locked} cannot be used",
            "a private key",
            "a public Ed25519 key, in PEM or OpenSSH format",
            "pass the public key beside it, the file with .pub, and show the private one to nobody",
        ),
    ):
        public_key(locked)


def test_an_entry_that_is_there_twice_is_refused(tmp_path: Path, key: Path, capsys: Out) -> None:
    path = tmp_path / "manifest.json"
    document = json.dumps(signed({"run": "mine"}, private_key(key)))
    path.write_text(document.replace('"run"', '"run": "yours", "run"'), "utf-8")
    assert main(["verify", str(path)]) == 2
    assert "broken JSON: an entry that is there twice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[]", "a JSON list"),
        ('{"a": NaN}', "broken JSON: NaN is no JSON number"),
        ('{"a": 1e999}', "broken JSON: 1e999 is no JSON number"),
        ('{"a":' * 900 + "1" + "}" * 900, "values that are nested 900 deep"),
        ('{"a":' * 90_000, "broken JSON: maximum recursion depth exceeded"),
        ('{"a": "\udcff"', "broken JSON: "),
    ],
)
def test_what_is_no_manifest_is_refused(text: str, found: str, tmp_path: Path, capsys: Out) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(text, "utf-8", errors="surrogateescape")
    assert main(["verify", str(path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {path} is no manifest\n  found:    {found}")
    assert said.endswith("  fix:      restore it, or correct the path\n")


def test_a_signature_says_nothing_of_files_that_changed(finished_run: Path, key: Path, capsys: Out) -> None:
    manifest(finished_run, "--key", key)
    (finished_run / "full" / "record.json").write_text("{}")
    code, problems = verified(capsys, finished_run / "manifest.json", "--key", key.with_suffix(".pub"))
    assert code == 1
    assert problems[0].startswith("changed: full/record.json, 2 bytes instead of ")
    assert problems[1].startswith("unreadable: ")


def test_a_manifest_that_lies_elsewhere_needs_its_run(
    finished_run: Path, tmp_path: Path, capsys: Out
) -> None:
    elsewhere = tmp_path / "sent"
    elsewhere.mkdir()
    path = elsewhere / "a.json"
    assert main(["manifest", str(finished_run), "--output", str(path)]) == 0
    capsys.readouterr()
    assert main(["verify", str(path)]) == 2
    assert capsys.readouterr().err == (
        f"error: nothing says which run folder {path} is of\n"
        f"  found:    it lies in {elsewhere}, which is no run folder\n"
        "  expected: the run folder, as the manifest was written elsewhere\n"
        f"  fix:      guda verify {path} --run RUN\n"
    )
    assert verified(capsys, path, "--run", finished_run) == (0, [])
