from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from guda_lightning.errors import StoreError
from guda_lightning.storage import files
from guda_lightning.storage.written import files_below, listening

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@settings(deadline=None)  # the machine may be busy
@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_canonical_json_ignores_key_order_and_round_trips(value: dict[str, object]) -> None:
    backwards = dict(reversed(value.items()))
    assert files.canonical_json(value) == files.canonical_json(backwards)
    assert files.sha256_json(value) == files.sha256_json(backwards)
    assert json.loads(files.canonical_json(value)) == value


def test_hashes_are_the_plain_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 3_000_000)
    assert files.sha256_file(tmp_path / "file") == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    assert (
        files.sha256_json({"b": [1, 2], "a": "é"}) == hashlib.sha256(b'{"a":"\\u00e9","b":[1,2]}').hexdigest()
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [-float("inf")]}])
def test_canonical_json_refuses_what_is_no_number(value: object) -> None:
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        files.canonical_json(value)


@settings(deadline=None)  # the machine may be busy
@given(st.text(max_size=100), st.integers(7, 60))
def test_slug_is_a_safe_file_name(text: str, max_length: int) -> None:
    assert re.fullmatch(r"[a-z0-9_][a-z0-9._-]*", files.slug(text, max_length))
    assert len(files.slug(text, max_length)) <= max_length


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Van Gogh", "van-gogh"),
        ("../../etc/passwd", "etc-passwd"),
        ("Große Fläche", "grosse-flache"),
        (".hidden", "hidden"),
        ("", "unnamed"),
        ("группа", "unnamed"),
        ("a" * 50, "a" * 40),
        ("v1.5_x", "v1.5_x"),
    ],
)
def test_slug_stays_readable(text: str, expected: str) -> None:
    assert files.slug(text) == expected


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (None, "No such file or directory"),
        (b'{"a": 1', "broken JSON: Expecting ',' delimiter: line 1 column 8 (char 7)"),
        (b"", "broken JSON: Expecting value: line 1 column 1 (char 0)"),
        (b'{"a": NaN}', "broken JSON: NaN is no JSON number"),
        (b"\xff", "broken JSON: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
        (b"[1]", "a JSON list"),
    ],
)
def test_read_json_refuses(tmp_path: Path, content: bytes | None, found: str) -> None:
    path = tmp_path / "record.json"
    if content is not None:
        path.write_bytes(content)
    message = (
        f"{path} cannot be read\n  found:    {found}\n  expected: a file with one JSON object\n"
        "  fix:      remove it if it is there, and rerun the command that writes it"
    )
    with pytest.raises(StoreError, match=f"^{re.escape(message)}$"):
        files.read_json(path)


def test_write_atomic_writes_replaces_and_makes_parents(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / ("ü" * 120)
    files.write_atomic(path, "é\n")
    assert path.read_bytes() == "é\n".encode()
    files.write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == [path.name]
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode


def test_atomic_folder_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "one"
    with files.atomic_folder(path) as folder:
        assert folder.parent == path.parent
        assert folder.name.startswith(".")
        (folder / "sub").mkdir()
        (folder / "sub" / "file").write_text("1")
        assert not path.exists()
    assert (path / "sub" / "file").read_text() == "1"
    with files.atomic_folder(path) as folder:
        (folder / "file").write_text("2")
        assert (path / "sub" / "file").read_text() == "1"
    assert [p.name for p in path.iterdir()] == ["file"]
    assert os.listdir(path.parent) == ["one"]


def test_atomic_folder_stays_where_a_link_leads(tmp_path: Path) -> None:
    """Else a full model whose folder is linked to another disk is refused by rename(), after its training."""
    disk, run = tmp_path / "disk", tmp_path / "run"
    for folder in (disk / "full", run):
        folder.mkdir(parents=True)
    for name in ("full", "not_there_yet"):
        (run / name).symlink_to(disk / name)
        for content in ("1", "2"):
            with listening() as heard, files.atomic_folder(run / name) as folder:
                (folder / "x").write_text(content)
            assert (disk / name / "x").read_text() == content and (run / name).is_symlink()
            assert files_below(run, heard) == [f"{name}/x"]
    assert sorted(path.name for path in disk.iterdir()) == ["full", "not_there_yet"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_atomic_folder_keeps_the_old_one_after_an_error(tmp_path: Path, error: type[BaseException]) -> None:
    with files.atomic_folder(tmp_path / "one") as folder:
        (folder / "file").write_text("old")
    with pytest.raises(error), files.atomic_folder(tmp_path / "one") as folder:
        (folder / "file").write_text("half")
        raise error
    assert (tmp_path / "one" / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["one"]


def test_atomic_folder_refuses_a_file_of_that_name(tmp_path: Path) -> None:
    path = tmp_path / "one"
    path.write_text("mine")
    message = (
        f"{path} cannot be written\n  found:    a file of that name\n  expected: a folder, or nothing\n"
        "  fix:      move it away"
    )
    with pytest.raises(StoreError, match=f"^{re.escape(message)}$"), files.atomic_folder(path):
        pass
    assert path.read_text() == "mine"


def test_atomic_folder_restores_the_old_one_when_the_new_one_cannot_take_its_place(tmp_path: Path) -> None:
    with files.atomic_folder(tmp_path / "one") as folder:
        (folder / "file").write_text("old")
    with pytest.raises(FileNotFoundError), files.atomic_folder(tmp_path / "one") as folder:
        folder.rmdir()
    assert (tmp_path / "one" / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["one"]


# Each program replaces the same artifact for ever, with all-a and all-b contents in turn.
WRITE_FILES = """
import itertools, sys
from guda_lightning.storage.files import write_atomic
print("ready", flush=True)
for letter in itertools.cycle(b"ab"):
    write_atomic(sys.argv[1] + "/artifact", bytes([letter]) * 4_000_000)
"""
WRITE_FOLDERS = """
import itertools, pathlib, sys
from guda_lightning.storage.files import atomic_folder
print("ready", flush=True)
for letter in itertools.cycle(b"ab"):
    with atomic_folder(sys.argv[1] + "/artifact") as folder:
        for part in range(4):
            (folder / str(part)).write_bytes(bytes([letter]) * 1_000_000)
"""
# Each program is in the middle of replacing the artifact when it says so.
WRITE_ONE_FILE = """
import os, sys, time
from guda_lightning.storage import files
files.write_atomic(sys.argv[1] + "/artifact", b"a" * 4_000_000)
def slow(descriptor, fsync=os.fsync):
    fsync(descriptor)
    print("ready", flush=True)
    time.sleep(3600)  # until it is killed
os.fsync = slow
files.write_atomic(sys.argv[1] + "/artifact", b"b" * 4_000_000)
"""
WRITE_ONE_FOLDER = """
import sys, time
from guda_lightning.storage.files import atomic_folder
for letter in (b"a", b"b"):
    with atomic_folder(sys.argv[1] + "/artifact") as folder:
        for part in range(4):
            (folder / str(part)).write_bytes(letter * 1_000_000)
            if letter == b"b" and part == 2:
                print("ready", flush=True)
                time.sleep(3600)  # until it is killed
"""


@contextmanager
def running(program: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    # A shell that runs the tests in the background hands down an ignored SIGINT.
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n" + program
    command = [sys.executable, "-c", program, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def read(artifact: Path) -> bytes:
    if artifact.is_dir():
        assert sorted(os.listdir(artifact)) == ["0", "1", "2", "3"]
        return b"".join((artifact / part).read_bytes() for part in "0123")
    return artifact.read_bytes()


@pytest.mark.parametrize("program", [WRITE_ONE_FILE, WRITE_ONE_FOLDER])
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_killed_in_mid_write_the_old_artifact_stays(tmp_path: Path, program: str, signal_number: int) -> None:
    with running(program, tmp_path) as process:
        assert len(os.listdir(tmp_path)) == 2
        process.send_signal(signal_number)
        process.wait()
        assert process.returncode == -signal_number
    assert read(tmp_path / "artifact") == b"a" * 4_000_000
    left = [name for name in os.listdir(tmp_path) if name != "artifact"]
    if signal_number == signal.SIGINT:
        assert left == []  # Ctrl-C cleans up
    else:
        assert [name[0] for name in left] == ["."]  # kill -9 cannot


@pytest.mark.parametrize("program", [WRITE_FILES, WRITE_FOLDERS])
def test_killed_at_any_moment_no_half_artifact_shows(tmp_path: Path, program: str) -> None:
    for round_number in range(5):
        folder = tmp_path / str(round_number)
        folder.mkdir()
        with running(program, folder) as process:
            time.sleep(0.02 + 0.013 * round_number)
            process.kill()
        if (folder / "artifact").exists():  # a kill between the two renames of a folder leaves none
            assert read(folder / "artifact") in (b"a" * 4_000_000, b"b" * 4_000_000)


@pytest.mark.parametrize("program", [WRITE_FILES, WRITE_FOLDERS])
def test_two_writers_of_one_artifact_never_mix(tmp_path: Path, program: str) -> None:
    with running(program, tmp_path) as one, running(program, tmp_path) as other:
        time.sleep(0.5)
        for process in (one, other):
            assert process.poll() is None  # it did not die of the other
            process.send_signal(signal.SIGINT)
            process.wait()
    assert read(tmp_path / "artifact") in (b"a" * 4_000_000, b"b" * 4_000_000)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"a full disk needs the right to mount a tmpfs: {mounted.stderr.decode().strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def full_disk_message(path: Path, expected: str) -> str:
    return (
        f"^{re.escape(f'the disk is full: {path} was not written')}\n  found:    [0-9]+ bytes free\n"
        f"  expected: {expected}\n  fix:      free space on the disk that holds {re.escape(str(path.parent))}"
        " and rerun; finished work is kept$"
    )


def test_a_full_disk_keeps_the_old_file(small_disk: Path) -> None:
    files.write_atomic(small_disk / "file", b"old")
    message = full_disk_message(small_disk / "file", "at least 2000000 bytes free")
    with pytest.raises(StoreError, match=message):
        files.write_atomic(small_disk / "file", b"x" * 2_000_000)
    assert (small_disk / "file").read_bytes() == b"old"
    assert os.listdir(small_disk) == ["file"]
    files.write_atomic(small_disk / "file", b"x" * 900_000)  # the room is back


def test_a_full_disk_keeps_the_old_folder(small_disk: Path) -> None:
    with files.atomic_folder(small_disk / "one") as folder:
        (folder / "file").write_text("old")
    message = full_disk_message(small_disk / "one", "room for the whole folder")
    with pytest.raises(StoreError, match=message), files.atomic_folder(small_disk / "one") as folder:
        (folder / "file").write_bytes(b"x" * 2_000_000)
    with pytest.raises(StoreError, match=message), files.atomic_folder(small_disk / "one") as folder:
        save_file({"weight": np.zeros(2_000_000, np.uint8)}, folder / "model.safetensors")
    assert (small_disk / "one" / "file").read_text() == "old"
    assert os.listdir(small_disk) == ["one"]
