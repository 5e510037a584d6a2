"""What a page says of how its scores were made."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from guda_lightning.counterfactuals import RETRAIN, CounterfactualRecord
from guda_lightning.report.run_tables import Family
from guda_lightning.report.text import cut, listed
from guda_lightning.scores import ScoreTable
from guda_lightning.scores.kinds import Ensemble, Likelihood, NonParametric, Screened
from guda_lightning.scores.record import ScoringRecord
from guda_lightning.storage.full_record import FullRecord
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.weights_record import WeightsRecord

_GROUPS = 60  # whose sizes are listed
_SECRET = re.compile(r"(token|password|passwd|secret|credential|key)s?$", re.IGNORECASE)


def run_facts(run: RunFolder, table: ScoreTable) -> dict[str, str]:
    """What all tables of a page share: run, data, groups and full model, as rows of two columns.

    Args:
        run: The run folder.
        table: One of them.
    """
    record = table.record.of_method(table.methods[0])[0]
    facts = {"Run folder": run.name}
    full = FullRecord.of_run(run.full)
    # The full model may be another one, named with --full.
    known = full is not None and full.full_hash == record.full_hash
    if full is not None and (known or record.full_hash is None):
        facts["Data"] = _data(full.config.get("data"))
    if record.group_sizes:
        facts["Groups"] = _sizes(record.group_sizes)
    facts["Grouping"] = str(record.grouping_hash)[:16]
    if record.full_hash is not None:
        facts["Full model"] = record.full_hash[:16]
    if full is not None and known:
        stopped = f", stopped by {full.stopped}" if full.stopped else ""
        facts["Training"] = f"{full.steps:,} steps{stopped}, {full.seconds:.0f} s"
    return facts


def facts_of(family: Family, made: Sequence[WeightsRecord]) -> dict[str, str]:
    """How the scores of one table, or of those of several seeds, came about, as rows of two columns.

    Args:
        family: The tables.
        made: What was made for them: counterfactuals, or one posterior each; empty where they need none.
    """
    record, method = family.first.record, family.first.methods[0]
    dates = {datetime.date.fromtimestamp(path.stat().st_mtime).isoformat() for path in family.tables}
    facts = {"Table": family.name, "File dated": ", ".join(sorted(dates)), "Command": _command(family.joined)}
    if made:
        each = "a group" if isinstance(made[0], CounterfactualRecord) else "in all"
        each = "a member" if isinstance(record.details, Ensemble) else each
        facts["Method"] = f"{method}, {_steps(made)} steps {each}"
        facts[_work(made[0])] = (
            f"{sum(one.seconds for one in made):.0f} s, "
            f"{sum(one.network_evaluations for one in made):,} network evaluations"
        )
    else:
        facts["Method"] = method
    if record.scoring is not None:
        facts["Timesteps"] = _timesteps(record.scoring)
        facts["Standard error"] = record.scoring.stderr
        facts["Noise seed"] = str(record.scoring.seed)
    if isinstance(record.details, NonParametric):
        facts["Options"] = ", ".join(f"{name} {value}" for name, value in record.details.options.items())
    return facts


def _data(section: Any) -> str:
    """The source of the training data, without secrets and the folders of the computer that it lay on."""
    if not isinstance(section, Mapping):
        return "not recorded"
    options = dict(section.get("init_args", {}))
    source = options.get("source")
    named = source if isinstance(source, Mapping) else section
    kept = {**named.get("init_args", {}), **{name: options.get(name) for name in ("limit", "image_size")}}
    said = ", ".join(
        f"{name} {_without_folders(value) if isinstance(value, str) else value}"
        for name, value in kept.items()
        if isinstance(value, str | int | float) and not isinstance(value, bool) and not _SECRET.search(name)
    )
    name = str(named.get("class_path", "not recorded")).rpartition(".")[2]
    return f"{name} ({said})" if said else name


def _without_folders(value: str) -> str:
    """The last part of a path of this computer; any other text, such as a name on a hub, as it is."""
    path = Path(value).expanduser()
    return path.name if path.is_absolute() or path.exists() else value


def _sizes(sizes: Mapping[str, int]) -> str:
    smallest, largest = min(sizes.values()), max(sizes.values())
    between = f"{smallest:,}" if smallest == largest else f"{smallest:,} to {largest:,}"
    each = listed([f"{cut(name, 30)}: {size:,}" for name, size in sizes.items()], _GROUPS)
    return f"{len(sizes)} groups of {between} training samples ({each})"


def _command(table: ScoreTable) -> str:
    """The command that scores so; options that change neither method nor seed are left out."""
    method = table.methods[0]
    details = table.record.of_method(method)[0].details
    if isinstance(details, Ensemble):
        return "guda attribute -c CONFIG -c attribute/ensemble.yaml"
    if isinstance(details, Likelihood) and not isinstance(details, Screened):
        seed = f" --seed {','.join(map(str, table.seeds))}" if any(table.seeds) else ""
        return f"guda attribute -c CONFIG --operator {method}{seed}"
    return f"guda attribute -c CONFIG, with the attributor {method}"


def _steps(made: Sequence[WeightsRecord]) -> str:
    """Optimizer steps as taken, which may be fewer for some groups than for others."""
    fewest, most = min(one.steps for one in made), max(one.steps for one in made)
    return f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"


def _work(made: WeightsRecord) -> str:
    """What went into the scores."""
    if not isinstance(made, CounterfactualRecord):
        return "Posterior"
    return "Retraining" if made.operator == RETRAIN else "Unlearning"


def _timesteps(scoring: ScoringRecord) -> str:
    plan = scoring.plan
    low, high = plan["range"]
    kind = "a fixed grid (biased)" if plan["biased"] else "strata (unbiased)"
    return f"{len(plan['starts'])} {kind} x {plan['draws']} draws of {low} <= t <= {high}"
