"""What errors of the store say: which counterfactual, and the command that makes it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from guda_lightning.counterfactuals.record import RETRAIN, CounterfactualKey
from guda_lightning.storage.files import canonical_json
from guda_lightning.storage.weights_record import WeightsRecord


def described(key: CounterfactualKey) -> str:
    """Which counterfactual."""
    return f"the counterfactual '{key.operator}' without {', '.join(key.groups)} (seed {key.seed})"


def command(operator: str, groups: Sequence[str] | None, seed: int) -> str:
    """How to make the counterfactuals of some groups."""
    stage, option = ("retrain", "--seeds") if operator == RETRAIN else ("unlearn", "--seed")
    options = [f"--groups {shlex.quote(','.join(groups))}"] if groups else []
    options += [f"{option} {seed}"] if seed else []
    return f"run guda {stage}" + (f" with {' '.join(options)}" if options else "")


def preset(operator: str) -> str | None:
    """What to do where an operator is called as a configuration of an attributor; None: none is called so."""
    folder = resources.files("guda_lightning.configs") / "attribute"
    for file in folder.iterdir():
        if file.name == f"{operator}.yaml" and "\nattributor:" in f"\n{file.read_text('utf-8')}":
            return f"pass -c attribute/{file.name} instead of --operator {operator}"
    return None


def described_hparams(records: Sequence[WeightsRecord]) -> list[str]:
    """One line per set of hyper-parameters: its hash, its number of groups, and what the sets differ in."""
    return [
        f"{digest[:8]} ({sum(record.hparams_hash == digest for record in records)} groups: {differing})"
        for digest, differing in differing_hparams(records).items()
    ]


def differing_hparams(records: Sequence[WeightsRecord]) -> dict[str, str]:
    """What sets of hyper-parameters differ in, by their hashes, sorted."""
    sets = {record.hparams_hash: _flatten(record.hparams) for record in records}
    names = sorted({name for hparams in sets.values() for name in hparams})
    differing = [name for name in names if len({hparams.get(name, "unset") for hparams in sets.values()}) > 1]
    return {
        digest: ", ".join(f"{name}={hparams.get(name, 'unset')}" for name in differing)
        for digest, hparams in sorted(sets.items())
    }


def _flatten(hparams: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in hparams.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = canonical_json(value)
    return flat
