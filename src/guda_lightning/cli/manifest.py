"""``guda manifest``: one document that says how a run came about, and checks it later."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from guda_lightning.cli.arguments import Arguments
from guda_lightning.cli.commands import Command
from guda_lightning.storage.files import canonical_json
from guda_lightning.storage.foreign import refuse_foreign_file
from guda_lightning.storage.manifest import FORMAT, manifest_of, refuse_changed, save, states_of
from guda_lightning.storage.paths import refuse_no_run, user_path
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.signing import private_key, signed


def run(command: Command, arguments: Sequence[str]) -> int:
    """Write it."""
    parser = Arguments(command)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument(
        "--key", type=Path, metavar="FILE", help="private Ed25519 key to sign with, in PEM or OpenSSH format"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="where to write it (default: RUN/manifest.json)"
    )
    parser.add_argument("--json", action="store_true", help="print it, and write it only with --output")
    chosen = parser.parse_args(arguments)
    folder = RunFolder(refuse_no_run(chosen.run))
    key = None if chosen.key is None else private_key(user_path(chosen.key))  # refused before work
    output = folder.manifest if chosen.output is None else user_path(chosen.output)
    refuse_foreign_file(output, "guda manifest", FORMAT)  # a slip of --output may name a result, or a key
    from guda_lightning.report.scored import scored

    before = states_of(folder, output)
    document = manifest_of(folder, scored(folder), output)
    refuse_changed(folder, before, output)
    if key is not None:
        document = signed(document, key)
    if chosen.output is not None or not chosen.json:
        save(document, output)
    if chosen.json:
        print(canonical_json(document, indent=1))
        return 0
    by = f", signed by {document['signature']['fingerprint']}" if key is not None else ", not signed"
    print(f"manifest: {output} written: {len(document['files'])} files{by}")
    return 0
