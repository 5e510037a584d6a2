"""``guda verify``: whether a run folder is still what its manifest says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from guda_lightning.cli.arguments import Arguments
from guda_lightning.cli.commands import Command
from guda_lightning.cli.text import shown
from guda_lightning.errors import ConfigError, GudaError
from guda_lightning.storage.config import differences
from guda_lightning.storage.files import canonical_json
from guda_lightning.storage.history import steps_of
from guda_lightning.storage.manifest import STATEMENT, changed_files, files_of, load, recorded
from guda_lightning.storage.paths import refuse_no_run, user_path
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.schema import schema_of, violations
from guda_lightning.storage.signing import is_right, public_key, ssh_line

_SHOWN = 20  # problems, of any number


def run(command: Command, arguments: Sequence[str]) -> int:
    """Check it; 0 where all holds, else 1."""
    parser = Arguments(command)
    parser.add_argument("manifest", type=Path, help="what guda manifest wrote")
    parser.add_argument("--run", type=Path, help="run folder (default: the one in which the manifest lies)")
    parser.add_argument(
        "--key", type=Path, metavar="FILE", help="public Ed25519 key of whoever must have signed it"
    )
    parser.add_argument("--json", action="store_true", help="print what was found, as JSON")
    chosen = parser.parse_args(arguments)
    path = user_path(chosen.manifest)
    document, key = load(path), None
    if chosen.key is not None:
        key = ssh_line(public_key(user_path(chosen.key)))
    folder = RunFolder(_beside(path) if chosen.run is None else refuse_no_run(chosen.run))
    problems = violations(document, schema_of())
    signature = "the manifest is not what its schema says"
    if not problems:
        wrong, signature = _signature(document, key)
        problems = [*wrong, *_against(document, folder, path)]
    if chosen.json:
        found = {"holds": not problems, "signature": signature, "problems": problems}
        print(json.dumps(found, indent=2))
    else:
        _print(path, folder, document, signature, problems)
    return 1 if problems else 0


def _beside(manifest: Path) -> Path:
    """The run folder in which a manifest lies.

    Raises:
        ConfigError: It lies elsewhere.
    """
    if not RunFolder(manifest.parent).exists:
        raise ConfigError(
            f"nothing says which run folder {manifest} is of",
            found=f"it lies in {manifest.parent}, which is no run folder",
            expected="the run folder, as the manifest was written elsewhere",
            fix=f"guda verify {manifest} --run RUN",
        )
    return refuse_no_run(manifest.parent)


def _signature(document: Mapping[str, Any], key: str | None) -> tuple[list[str], str]:
    """What is wrong with the signature, and what it shows."""
    about = document.get("signature")
    if about is None:
        said = "not signed: whoever can write the run folder can write a manifest that fits it"
        return ([] if key is None else ["signature: there is none"]), said
    if not is_right(document):
        return ["signature: it is not of these contents"], "wrong"
    if key is None:
        return [], (
            f"by {about['fingerprint']}. Without --key this shows only that nothing was changed after "
            "whoever holds that key signed it, and not who that is"
        )
    if about["public_key"] != key:
        return [f"signature: by another key, {about['fingerprint']}"], f"by {about['fingerprint']}"
    return [], f"by the given key, {about['fingerprint']}"


def _against(document: Mapping[str, Any], run: RunFolder, manifest: Path) -> list[str]:
    """Where a run folder is not what the document says."""
    problems = [] if document["statement"] == STATEMENT else ["statement: other words than guda manifest's"]
    problems += changed_files(document, run, manifest)
    try:
        now = recorded(run, list(steps_of(run).values()), list(files_of(run, manifest)))
        now["run"] = document["run"]  # a folder may be renamed
        for name, value in now.items():
            problems += [f"records: other {key}" for key in _other(document[name], value, name)]
        from guda_lightning.report.scored import other_scores, scored

        # Nothing but a signature protects words; where there is one, those of its version stay.
        words = "signature" not in document
        found = json.loads(json.dumps(scored(run)))
        problems += other_scores(document["scores"], found, words=words)
    except GudaError as error:
        problems.append(f"unreadable: {error.problem}: {error.found}")
    return problems


def _other(said: Any, now: Any, name: str) -> list[str]:
    """Where two values of JSON differ, by dotted keys; also where one has null, and the other nothing."""
    text = canonical_json(now)
    return [key for key, _, _ in differences(said, json.loads(text), name)] or (
        [name] if canonical_json(said) != text else []
    )


def _print(
    path: Path, run: RunFolder, document: Mapping[str, Any], signature: str, problems: Sequence[str]
) -> None:
    for problem in problems[:_SHOWN]:
        print(f"  {shown(problem)}")
    if len(problems) > _SHOWN:
        print(f"  and {len(problems) - _SHOWN} more (--json lists all)")
    print(f"signature: {signature}")
    if problems:
        several = "s" if len(problems) > 1 else ""
        print(f"verify: {path} does not hold for {run.root}: {len(problems)} problem{several}")
    else:
        count = len(document["files"])
        print(f"verify: {path} holds for {run.root}: {count} files, records and scores are as it says")
        print(f"note: {STATEMENT}")
