"""The machine and the code that compute something today."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from guda_lightning.storage.provenance import versions
from guda_lightning.version import __version__

_PACKAGE = Path(__file__).parents[1]


def environment(**known: Any) -> dict[str, Any]:
    """What computes, as JSON values.

    Args:
        **known: What only torch knows, such as ``threads`` and ``devices``.
    """
    return {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        **known,
        "versions": versions(),
        "code": dict(code()),
    }


@cache
def code() -> Mapping[str, Any]:
    """Which code this is: version, hash of its Python files, and the commit of a checkout.

    ``changed`` says whether files of the checkout differ from the commit; both are left out elsewhere.
    """
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(f"{path.relative_to(_PACKAGE).as_posix()}\0".encode() + path.read_bytes())
    found: dict[str, Any] = {"version": __version__, "sha256": digest.hexdigest()}
    checkout = _PACKAGE.parents[1]
    if (checkout / ".git").exists():  # not that of a project in whose environment this is installed
        with suppress(OSError, subprocess.SubprocessError):  # no git here
            found["commit"] = _git(checkout, "rev-parse", "HEAD")
            found["changed"] = bool(_git(checkout, "status", "--porcelain", "--untracked-files=no"))
    return found


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "--no-optional-locks", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def _processor() -> str:
    """Its model, where the system tells."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
