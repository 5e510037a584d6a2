"""How often the verdicts catch counterfactuals that were spoiled on purpose, and refuse good ones."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from benchmarks import groupings, oracles
from benchmarks.stages import Asked, Bench
from benchmarks.tables import write_table
from guda_lightning.attribution import AttributionContext, CounterfactualAttributor, squared_errors
from guda_lightning.attribution.elbo import FittedELBOAttributor
from guda_lightning.attribution.networks import FittedNetworks
from guda_lightning.attribution.probing import posterior_of, predictor_of, probe
from guda_lightning.counterfactuals import CounterfactualStore
from guda_lightning.data import GroupDataModule, UnlearnDataModule
from guda_lightning.data.sources.digits import Digits
from guda_lightning.diffusion import open_full
from guda_lightning.diffusion.module import Noised
from guda_lightning.evaluation.validity import judge
from guda_lightning.functional.prediction import add_noise
from guda_lightning.scores import Scoring, Verdict
from guda_lightning.storage.files import slug, write_atomic
from guda_lightning.types import Queries
from guda_lightning.unlearning import Guided, NegGrad, Objective, ReTrack
from guda_lightning.unlearning.bound import ObjectiveContext

BATCH, RATE = 32, 3e-4
GOOD = ("retrain", "guidance", "guided")
OWN = "guided"  # whose counterfactual is also passed off as that of another group


@dataclass(frozen=True)
class Kind:
    """One way to unlearn, scored after some steps.

    Attributes:
        objective: What to minimise.
        steps: Steps to what the counterfactual is called then.
        shuffled: Whether it forgets as many samples of all groups instead.
    """

    objective: Objective
    steps: Mapping[int, str]
    shuffled: bool = False


def kinds(store: str) -> list[Kind]:
    """All of them; the thresholds of ``evaluation/validity.py`` were chosen on the groups 0 to 4."""
    return [
        Kind(Guided(store=store), {3: "guided, 3 steps instead of 30", 30: "guided"}),
        Kind(ReTrack(), {2: "retrack, 2 steps", 30: "retrack, 30 steps: too far"}),
        Kind(ReTrack(kl_cap=1.0), {15: "retrack, capped"}),
        Kind(ReTrack(forget_weight=0.001), {15: "retrack, λ .001 instead of 1"}),
        Kind(NegGrad(forget_weight=1.0), {15: "neggrad, λ 1 instead of .03"}),
        Kind(ReTrack(), {15: "retrack, shuffled labels"}, shuffled=True),
    ]


@dataclass(frozen=True, eq=False, kw_only=True)
class Unstored(FittedNetworks):
    """A counterfactual that was never stored.

    Attributes:
        network: Its network.
    """

    network: nn.Module

    def last_quarter(self, group: str) -> float | None:
        """See ``FittedELBOAttributor.last_quarter``; no influence was measured on the way."""
        return None

    def measure(self, queries: Queries, scoring: Scoring, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See ``FittedELBOAttributor.measure``; all is measured."""
        full = self.context.full.model
        errors, timesteps = squared_errors(full, queries, scoring)
        found, _ = squared_errors(replace(full, denoiser=self.network), queries, scoring)
        return errors, found[None], timesteps


class Tried:
    """The run folder of a benchmark, and the verdicts on counterfactuals of its full model.

    Args:
        bench: Its full model, oracle and classifier are complete.
        data: Its training data.
    """

    def __init__(self, bench: Bench, data: GroupDataModule) -> None:
        self.run, self.data = bench.run, data
        self.full = open_full(bench.run.full, LightningModule())
        self.context = AttributionContext(self.full, data, store=bench.run.store)

    def stored(self, operator: str, seed: int, groups: Sequence[str]) -> list[Verdict]:
        """Verdicts on counterfactuals of the store."""
        found = CounterfactualAttributor(None, operator, seed=seed, groups=groups).fit(self.context)
        return list(self._judged(found).values())

    def unlearned(self, kind: Kind, group: str) -> Iterator[tuple[str, str, nn.Module]]:
        """What an unlearning of one group is called after some steps, the group, and the network."""
        data = self.data.unlearning((group,))
        forget, everyone = data.forget, np.arange(len(self.data.ids))
        if kind.shuffled:
            data = _shuffled(self.data, group)
            forget = data.forget
        model, provenance = self.full.model, self.full.provenance(self.data.grouping.hash)
        context = ObjectiveContext(data, model.schedule, provenance, torch.device("cpu"))
        bound = kind.objective.bind(context)
        network = copy.deepcopy(model.denoiser).train()
        student = replace(model, denoiser=network)
        optimizer = torch.optim.AdamW(network.parameters(), lr=RATE)
        draws, noise = np.random.default_rng(0), torch.Generator().manual_seed(0)
        for step in range(1, max(kind.steps) + 1):
            sides = (forget, np.setdiff1d(everyone, forget))
            batches = [self._noised(draws.choice(side, BATCH), noise) for side in sides]
            optimizer.zero_grad()
            bound.loss(student, model, *batches).total.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            if step in kind.steps:
                yield kind.steps[step], group, network

    def verdict(self, group: str, network: nn.Module) -> Verdict:
        """The verdict on a network as the counterfactual of a group."""
        like = CounterfactualAttributor(None, "guidance", groups=[group]).fit(self.context)
        made = Unstored(
            groups=like.groups,
            method="spoiled",
            context=self.context,
            scoring=like.scoring,
            details=like.details,
            store=CounterfactualStore(self.run.store),
            keys={},
            network=network,
        )
        return self._judged(made)[group]

    def _judged(self, attributor: FittedELBOAttributor) -> dict[str, Verdict]:
        predictor = predictor_of(attributor)
        posterior = None if predictor is None else posterior_of(predictor)
        evidence = probe(attributor, self.data, predictor)
        return {group: judge(one, posterior) for group, one in evidence.items()}

    def _noised(self, rows: np.ndarray[tuple[int], np.dtype[np.int64]], noise: torch.Generator) -> Noised:
        x0, model = self.data.seen_inputs(rows), self.full.model
        timesteps = torch.randint(len(model.schedule), (len(x0),), generator=noise)
        epsilon = torch.randn(x0.shape, generator=noise)
        gamma, sigma = model.schedule.at(timesteps, like=x0)
        return Noised(x0, epsilon, add_noise(x0, epsilon, gamma, sigma), timesteps, gamma, sigma, None)


def _shuffled(data: GroupDataModule, group: str) -> UnlearnDataModule:
    """As many random samples as a group has, to forget."""
    permuted = data.grouping.permuted(0, "shuffled")
    return data.regrouped(permuted).unlearning((f"shuffled/{group}",))


def run(asked: Asked) -> None:
    """Judge good and spoiled counterfactuals of the digits that no threshold was chosen on."""
    bench = oracles.digits(asked)
    bench.stage("guide", label="guide")
    small = asked.size.classes < 10
    names = groupings.digits(asked.runs / "digits.csv", asked.size.classes) if small else None
    data = GroupDataModule(Digits(), groups=names)
    groups = list(data.grouping.names)[-asked.size.classes // 2 :]
    tried = Tried(bench, data)
    found: dict[str, list[Verdict]] = {}
    for position, group in enumerate(groups):
        for kind in kinds(str(bench.run.store))[: asked.size.kinds]:
            for name, verdict in _tried(tried, kind, group, groups[position - 1]):
                found.setdefault(name, []).append(verdict)
    for seed in range(bench.seeds):
        found[f"retrain, seed {seed}"] = tried.stored("retrain", seed, groups)
    found["guidance"] = tried.stored("guidance", 0, groups)
    rows = [_row(name, verdicts) for name, verdicts in found.items()]
    for what, good in (("all good ones", True), ("all spoiled ones", False)):
        of = [v for name, verdicts in found.items() if _good(name) is good for v in verdicts]
        rows.append(_row(what, of))
    notes = (
        f"Groups {', '.join(groups)}; thresholds were chosen on the others. Unlearning in batches of "
        f"{BATCH} + {BATCH}, AdamW {RATE:g}. `caught`: not valid."
    )
    write_table(asked.docs, "spoiled", asked.command("spoiled"), rows, notes)


def _tried(tried: Tried, kind: Kind, group: str, other: str) -> list[tuple[str, Verdict]]:
    """Verdicts on one unlearning, kept as a file so that a run goes on."""
    path = tried.run.root / "spoiled" / f"{slug('-'.join(kind.steps.values()))}-{slug(group)}.json"
    if path.is_file():
        return [(name, Verdict.from_json(one)) for name, one in json.loads(path.read_text())]
    found = []
    for name, own, network in tried.unlearned(kind, group):
        network.eval()
        found.append((name, tried.verdict(own, network)))
        if name == OWN:
            found.append(("guided, of another group", tried.verdict(other, network)))
        network.train()
    write_atomic(path, json.dumps([(name, verdict.to_json()) for name, verdict in found]))
    return found


def _good(name: str) -> bool:
    return name.startswith("retrain") or name in GOOD


def _row(name: str, verdicts: Sequence[Verdict]) -> dict[str, object]:
    grades = [verdict.grade for verdict in verdicts]
    sizes = sorted(
        one.evidence.forget.mean / one.evidence.forget.predicted
        for one in verdicts
        if one.evidence.forget.predicted
    )
    kept = max(verdict.evidence.retain.mean for verdict in verdicts)
    return {
        "counterfactual": name,
        "size / predicted": f"{sizes[0]:.2f} to {sizes[-1]:.2f}" if sizes and "all" not in name else "",
        "most lost elsewhere": "" if "all" in name else f"{kept:.1%}",
        "valid": grades.count("valid"),
        "doubtful": grades.count("doubtful"),
        "invalid": grades.count("invalid"),
        "caught": f"{1 - grades.count('valid') / len(grades):.0%}",
    }
