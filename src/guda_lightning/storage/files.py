"""Files that are either whole or absent, hashes of what they hold, and tables that users write."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import platform
import re
import secrets
import shutil
import stat
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NoReturn

from guda_lightning.errors import StoreError
from guda_lightning.storage.flocks import names, release, try_lock
from guda_lightning.storage.replacing import fsync, remove, replace_folder
from guda_lightning.storage.written import wrote

_UNSAFE = re.compile(r"[^a-z0-9._]+")  # in the name of a file
# Of what is half-written: the machine that fills it, and a random number.
TEMPORARY = re.compile(r"\..+\.([0-9a-f]{6})[0-9a-f]{10}\.tmp")
_OF_PROCESS = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")


def canonical_json(value: object, *, indent: int | None = None) -> str:
    """Write a value as JSON, the same text for equal values in any key order.

    Args:
        value: Anything the ``json`` module writes.
        indent: Spaces per level for a file that people read; None for one line without spaces.

    Raises:
        ValueError: The value holds a NaN or an infinity.
        TypeError: The value holds something that JSON has no word for.
    """
    return _encoder(indent).encode(value)


@cache
def _encoder(indent: int | None) -> json.JSONEncoder:
    separators = (",", ":") if indent is None else (",", ": ")
    return json.JSONEncoder(sort_keys=True, allow_nan=False, indent=indent, separators=separators)


def sha256_json(value: object) -> str:
    """Hash a value by its canonical JSON: 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def sha256_file(path: str | Path) -> str:
    """Hash a file's bytes: 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@lru_cache(maxsize=1024)
def slug(text: str, max_length: int = 40) -> str:
    """Turn any text into a readable piece of a file name, made of ``[a-z0-9._-]``.

    It is never empty and never starts with a dot. Two texts may share one: add a hash where it matters.
    """
    plain = unicodedata.normalize("NFKD", text.casefold()).encode("ascii", "ignore").decode()
    dashed = _UNSAFE.sub("-", plain)
    return dashed.strip("-.")[:max_length].strip("-.") or "unnamed"


def unique_slug(text: str) -> str:
    """The text itself where it is its own ``slug``, else the slug with a hash of the text."""
    short = slug(text)
    return short if short == text else f"{short}-{sha256_json(text)[:8]}"


def read_regular(path: str | Path, most: int = -1) -> bytes:
    """Read a file of which nobody knows who brought it.

    Args:
        path: The file.
        most: How many of its bytes, from the first; all of them where it is negative.

    Raises:
        OSError: There is none, or it is a pipe or a device, which may never end. Pipes that a shell has made
            for this process, as ``<(command)``, are read.
    """
    name = os.fspath(path)
    kind = os.stat(name).st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind) or name.startswith(_OF_PROCESS)):
        raise OSError(errno.EINVAL, "a pipe, a socket or a device")
    if most < 0:
        with open(name, "rb", buffering=0) as file:  # half the time of a small file
            return file.readall()
    with open(name, "rb") as file:
        return file.read(most)


def read_json(path: str | Path, infinities: bool = False) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: The file.
        infinities: Whether to accept the numbers that JSON does not have, as others' libraries write them.

    Raises:
        StoreError: The file is missing, half-written, or holds something other than an object.
    """
    return read_json_bytes(path, infinities)[0]


def read_json_bytes(path: str | Path, infinities: bool = False) -> tuple[dict[str, Any], bytes]:
    """Read a JSON object and what the file holds, once; as ``read_json``."""

    def refuse(found: object) -> StoreError:
        return StoreError(
            f"{path} cannot be read",
            found=found,
            expected="a file with one JSON object",
            fix="remove it if it is there, and rerun the command that writes it",
        )

    try:
        content = read_regular(path)
        value = (_LENIENT if infinities else _STRICT).decode(content.decode())
    except OSError as error:
        raise refuse(error.strerror) from error
    except (ValueError, RecursionError) as error:
        raise refuse(f"broken JSON: {error}") from error
    if not isinstance(value, dict):
        raise refuse(f"a JSON {type(value).__name__}")
    return value, content


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Write a file that appears under its name only when it is whole and on the disk.

    Missing parent folders are made; text is written as UTF-8; an existing file is replaced.

    Raises:
        StoreError: The disk is full. The file that was there before is untouched.
    """
    content = data.encode() if isinstance(data, str) else data
    with atomic_file(path, f"at least {len(content)} bytes free") as temporary:
        temporary.write_bytes(content)


@contextmanager
def atomic_file(path: str | Path, room: str = "room for the whole file") -> Iterator[Path]:
    """Fill a file, a piece at a time, that appears under its name only when it is whole and on the disk.

    Missing parent folders are made; an existing file is replaced.

    Args:
        path: Name of the file when the block has ended without an error.
        room: What the disk should have, for an error.

    Yields:
        The path to write to, whose name starts with a dot. It is gone after any error.

    Raises:
        StoreError: The disk is full, or a folder has that name. The file that was there before is untouched.
    """
    path = Path(path)
    if path.is_dir():
        raise _taken(path, "a folder of that name", "a file, or nothing")
    with _full_disk_explained(path, room):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(path, _new_file) as temporary:
            try:
                yield temporary
                _shared(temporary)
                fsync(temporary)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        fsync(path.parent)
        wrote(path)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Fill a folder that appears under its name only when it is whole and on the disk.

    Missing parent folders are made. An existing folder is replaced only once the new one is whole, and then
    in one step where the disk can, else by two between which ``leftovers.tidy`` finds it after a kill; of two
    processes that write the same folder, the last one stays. A link, such as to another disk, stays one.

    Args:
        path: Name of the folder when the block has ended without an error.

    Yields:
        An empty sibling folder to write into; its name starts with a dot. It is gone after any error.

    Raises:
        StoreError: The disk is full, or a file has that name. What was there before is untouched.
    """
    path = Path(path)
    if path.is_file():
        raise _taken(path, "a file of that name", "a folder, or nothing")
    place = Path(os.path.realpath(path)) if path.is_symlink() else path  # no folder takes a link's name
    with _full_disk_explained(path, "room for the whole folder"):
        place.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(place, _new_folder) as temporary:
            try:
                yield temporary
                for folder, _, files in os.walk(temporary):
                    for file in files:
                        _shared(Path(folder, file))
                        fsync(Path(folder, file))
                    fsync(Path(folder))
                replace_folder(temporary, place, temporary_name(place))
                wrote(path)
            finally:
                remove(temporary)


def _taken(path: Path, found: str, expected: str) -> StoreError:
    return StoreError(f"{path} cannot be written", found=found, expected=expected, fix="move it away")


@contextmanager
def _temporary(path: Path, make: Callable[[Path], int]) -> Iterator[Path]:
    """A sibling to fill, locked while the block lasts, so that nobody takes it for a leftover of a kill."""
    while True:
        temporary = temporary_name(path)
        descriptor = make(temporary)
        # Somebody who has found it before it was locked may be about to remove it.
        if try_lock(descriptor) is not False and names(descriptor, temporary):
            break
        release(descriptor)
    try:
        yield temporary
    finally:
        release(descriptor)


def _new_file(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)


def _new_folder(path: Path) -> int:
    while True:
        path.mkdir()
        with suppress(FileNotFoundError):  # somebody has removed it before it was opened
            return os.open(path, os.O_RDONLY)


def temporary_name(path: Path) -> Path:
    """A name beside a path that nothing has, which says on which machine it is filled."""
    # Cut short, because the longest file name is 255 bytes on most disks and a character may take four.
    return path.with_name(f".{path.name[:50]}.{this_machine()}{secrets.token_hex(5)}.tmp")


def _shared(file: Path) -> None:
    """Let those read a file whom the umask lets; some libraries let its owner alone."""
    file.chmod(0o666 & ~_umask())


@cache
def _umask() -> int:
    mask = os.umask(0o077)  # there is no other way to ask
    os.umask(mask)
    return mask


def this_machine() -> str:
    """Six hexadecimal digits that tell this machine from others."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:6]


@contextmanager
def _full_disk_explained(path: Path, expected: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        # safetensors reports a full disk as the text of an exception that is no OSError.
        if number not in (errno.ENOSPC, errno.EDQUOT) and f"(os error {errno.ENOSPC})" not in str(error):
            raise
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        raise StoreError(
            f"the disk is full: {path} was not written",
            found=f"{shutil.disk_usage(folder).free} bytes free",
            expected=expected,
            fix=f"free space on the disk that holds {path.parent} and rerun; finished work is kept",
        ) from error


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse_constant(text)  # 1e999


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


_LENIENT = json.JSONDecoder()
_STRICT = json.JSONDecoder(parse_float=_finite, parse_constant=_refuse_constant)
