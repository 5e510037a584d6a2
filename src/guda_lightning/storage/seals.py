"""Seals: the hash of what was written, stored with it, so that damage is never read as good.

A *sealed file* holds one token, ``guda-seal-`` and 64 hexadecimal digits: the hash of the file with zeros in
place of these digits. JSON, safetensors and Parquet have room for it in an entry of their own. A *sealed
folder* holds ``seal.json``, itself a sealed file, with the hash of every other file.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from guda_lightning.errors import StoreError
from guda_lightning.notes import tell_once
from guda_lightning.storage.files import (
    atomic_file,
    atomic_folder,
    canonical_json,
    read_json,
    temporary_name,
)
from guda_lightning.storage.hashed import MISSING, hashes, once
from guda_lightning.storage.replacing import remove

SEAL = "seal"  # the entry that holds the token
EMPTY = f"guda-seal-{'0' * 64}"
UNSEALED = {SEAL: EMPTY}  # the entry of a file that is being written
SEALS = "seal.json"  # of a sealed folder
_TOKEN = re.compile(rb"guda-seal-([0-9a-f]{64})")
_NO_FILE, _NO_SEAL = "a folder, a pipe or a device", "no seal"
_UNREAD = (MISSING, _NO_FILE)
_CHUNK = 1 << 20


class Fault(NamedTuple):
    """How a file differs from what was written.

    Attributes:
        path: The file.
        found: What is there.
        expected: What was written.
    """

    path: Path
    found: str
    expected: str


def sealed(content: bytes) -> bytes:
    """Contents with their seal filled in.

    Args:
        content: What a file is to hold, with the empty token once.

    Raises:
        StoreError: It holds no token, or several.
    """
    tokens = [(one.start(1), one[1].decode()) for one in _TOKEN.finditer(content)]
    start = _only(tokens)
    digest, whole = hashlib.sha256(content).hexdigest().encode(), memoryview(content)
    return b"".join((whole[:start], digest, whole[start + len(digest) :]))  # gigabytes are copied once


def sealed_json(value: Mapping[str, Any]) -> bytes:
    """A JSON object with its seal, as a file holds it."""
    return sealed(f"{canonical_json({**value, **UNSEALED}, indent=2)}\n".encode())


def seal(path: Path) -> None:
    """Fill in the seal of a file that holds the empty token once.

    Raises:
        StoreError: It holds no token, or several.
    """
    tokens, digest = _sealing(path)
    start = _only(tokens)
    with path.open("r+b") as file:
        file.seek(start)
        file.write(digest.encode())


@contextmanager
def sealed_file(path: str | Path, room: str = "room for the whole file") -> Iterator[Path]:
    """``atomic_file`` whose block writes the empty token, which is filled in before the file appears."""
    with atomic_file(path, room) as temporary:
        yield temporary
        seal(temporary)


@contextmanager
def sealed_folder(path: str | Path) -> Iterator[Path]:
    """``atomic_folder`` that appears with the hashes of all of its files."""
    with atomic_folder(path) as temporary:
        yield temporary
        names = (one.relative_to(temporary).as_posix() for one in temporary.rglob("*") if one.is_file())
        files = sorted(name for name in names if name != SEALS)
        (temporary / SEALS).write_bytes(folder_seal(dict(zip(files, hashes(temporary, files), strict=True))))


def folder_seal(files: Mapping[str, str]) -> bytes:
    """The contents of ``seal.json`` of a folder whose files have these hashes."""
    return sealed_json({"files": dict(files)})


def refuse_damaged(path: str | Path, fix: str) -> None:
    """Refuse a file whose contents are not those that it was sealed with; a process reads a large one once.

    Args:
        path: The file.
        fix: What to do about it.

    Raises:
        StoreError: It is missing, damaged, or was never sealed.
    """
    _refuse(fault(Path(path)), fix)


def refuse_damaged_folder(folder: Path, fix: str, part: str = "") -> None:
    """Refuse a folder of which a file is not as it was sealed; files that were added are none of it.

    Args:
        folder: The folder.
        fix: What to do about it.
        part: A file or a subfolder in it, by its name; empty: all of it.

    Raises:
        StoreError: A file is missing or damaged, or the folder was never sealed.
    """
    _refuse(folder_fault(folder, part), fix)


def refuse_damaged_contents(path: str | Path, content: bytes, fix: str) -> None:
    """``refuse_damaged`` for what has been read from the file already."""
    pieces = _TOKEN.split(content)  # what lies between the digits of the tokens, and these digits
    tokens = [written.decode() for written in pieces[1::2]]
    digest = hashlib.sha256(EMPTY.encode().join(pieces[::2])).hexdigest()
    if tokens != [digest]:
        _refuse(_fault(Path(path), tokens, digest), fix)


def fault(path: Path) -> Fault | None:
    """What is wrong with a sealed file; None: nothing."""
    if not path.is_file():  # a pipe may never end
        return Fault(path, _NO_FILE if path.exists() else MISSING, "a sealed file")
    try:
        tokens, digest = once(path, _sealing)
    except FileNotFoundError:
        return Fault(path, MISSING, "a sealed file")
    return _fault(path, [written for _, written in tokens], digest)


def changed_since_sealed(path: Path) -> Fault | None:
    """What is wrong with a file that may have a seal; None: nothing, or it has none."""
    wrong = fault(path)
    return None if wrong is None or wrong.found == _NO_SEAL else wrong


def _fault(path: Path, tokens: list[str], digest: str) -> Fault | None:
    if len(tokens) != 1:
        found = f"{len(tokens)} seals" if tokens else _NO_SEAL
        return Fault(path, found, "the seal of a file that this version wrote")
    (written,) = tokens
    return None if written == digest else Fault(path, _contents(digest), f"{_contents(written)}, its seal")


def folder_fault(folder: Path, part: str = "") -> Fault | None:
    """What is wrong with a sealed folder, or with a part of it; None: nothing."""
    path = folder / SEALS
    if not path.is_file():
        return Fault(folder, _NO_SEAL, f"the {SEALS} of a folder that this version wrote")
    if wrong := fault(path):
        return wrong
    files = read_json(path).get("files")
    if not isinstance(files, dict) or not all(map(_is_inside, files)):
        return Fault(path, "no list of its files", "hashes of the files in its folder")
    names = [name for name in files if part in ("", name) or name.startswith(f"{part}/")]
    if not names:
        return Fault(folder / part, _NO_SEAL, f"a hash in {path}")
    for name, found in zip(names, hashes(folder, names), strict=True):
        if found != files[name]:
            return Fault(folder / name, _contents(found), f"{_contents(files[name])}, as {path} says")
    return None


def intact(path: Path, then: str) -> bool:
    """Whether a file that is made again where it is missing is there; a damaged one is removed, with a note.

    Args:
        path: The file.
        then: What is done without it, for the note.
    """
    wrong = fault(path)
    if wrong is not None and wrong.found not in _UNREAD:
        _discard(path, wrong, then)
    return wrong is None


def intact_work(folder: Path, wrong: Fault | None, then: str) -> bool:
    """Whether unfinished work can be gone on with; what is damaged is removed, with a note.

    Args:
        folder: The folder of the work, which goes as a whole.
        wrong: What is wrong with it.
        then: What is done without it, for the note.

    Raises:
        StoreError: It has no seal: it is of an earlier version, and perhaps hours of work.
    """
    if wrong is not None and wrong.found == _NO_SEAL:
        raise StoreError(
            f"{folder} cannot be gone on with",
            found=f"{wrong.path}: {wrong.found}",
            expected=wrong.expected,
            fix=f"finish it with the version that began it, or remove {folder} to begin again",
        )
    if wrong is not None:
        _discard(folder, wrong, then)
    return wrong is None


def _discard(path: Path, wrong: Fault, then: str) -> None:
    if path.is_dir():
        aside = temporary_name(path)
        with suppress(FileNotFoundError):  # of several processes, another was faster
            os.rename(path, aside)
        remove(aside)
    else:
        path.unlink(missing_ok=True)
    tell_once(f"{wrong.path} is damaged: {wrong.found} instead of {wrong.expected}; {then}")


def _refuse(wrong: Fault | None, fix: str) -> None:
    if wrong is not None:
        problem = f"{wrong.path} {'cannot be read' if wrong.found in _UNREAD else 'is damaged'}"
        raise StoreError(problem, found=wrong.found, expected=wrong.expected, fix=fix)


def _only(tokens: list[tuple[int, str]]) -> int:
    if len(tokens) != 1 or f"guda-seal-{tokens[0][1]}" != EMPTY:
        raise StoreError(
            "what is to be stored cannot be sealed",
            found=f"{len(tokens)} texts that look like a seal",
            expected="no name with 'guda-seal-' and 64 hexadecimal digits",
            fix="rename the group, query or file that is called so",
        )
    return tokens[0][0]


def _sealing(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Where the digits of each token begin, with them; and the hash of the file with zeros in their place."""
    digest, tokens, start, held = hashlib.sha256(), list[tuple[int, str]](), 0, b""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            piece = held + chunk
            here = list(_TOKEN.finditer(piece))
            tokens += [(start + one.start(1), one[1].decode()) for one in here]
            # What is left may be the beginning of another token.
            whole = max([len(piece) - len(EMPTY) + 1, 0, *(one.end() for one in here)])
            digest.update(_TOKEN.sub(EMPTY.encode(), piece[:whole]) if here else piece[:whole])
            start, held = start + whole, piece[whole:]
    digest.update(held)
    return tokens, digest.hexdigest()


def _is_inside(name: str) -> bool:
    return not os.path.isabs(name) and ".." not in name.split("/")


def _contents(digest: str) -> str:
    return digest if digest == MISSING else f"contents with sha256 {digest[:16]}"
