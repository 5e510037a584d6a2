"""The methods that the benchmarks compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.encoders import CONTRASTIVE

DISTILL = ("--objective.init_args.preserve", "distill")
ELBO = ("-c", "attribute/elbo.yaml", "--operator")
FEATURES = ("--attributor", "guda_lightning.attribution.FeatureSimilarity")


@dataclass(frozen=True)
class Method:
    """How a method scores.

    Attributes:
        scored: Options of ``guda attribute``.
        stage: What is run before, if anything is.
        made: Its options.
        needs: A method whose stage is run before.
        lacking: Why it cannot be scored on the yardsticks that there are.
        on: The yardsticks that it can be scored on, if not on all.
    """

    scored: Sequence[str]
    stage: str = ""
    made: Sequence[str] = ()
    needs: str = ""
    lacking: str = ""
    on: Sequence[str] = ()

    def fits(self, yardstick: str) -> bool:
        """Whether it can be scored there."""
        return not self.lacking and (not self.on or yardstick in self.on)

    @property
    def learns(self) -> bool:
        """Whether it has a model for each group, so that some groups cost less than all."""
        return self.stage == "unlearn"


def _unlearned(config: str, *options: str, operator: str = "", needs: str = "", lacking: str = "") -> Method:
    quiet = ("--trainer.callbacks", "[]")
    scored = (*ELBO, operator or config)
    return Method(scored, "unlearn", ("-c", f"unlearn/{config}.yaml", *options, *quiet), needs, lacking)


def _attributor(name: str, needs: str = "", lacking: str = "", on: Sequence[str] = ()) -> Method:
    return Method(("-c", f"attribute/{name}.yaml"), needs=needs, lacking=lacking, on=on)


NO_ENCODER = "its pretrained encoder does not come along"
# What is compared, by the name of its tables: one line each.
METHODS: Mapping[str, Method] = {
    "guidance": Method((*ELBO, "guidance"), "guide"),
    "retrack": _unlearned("retrack"),
    "similarity": _attributor("similarity"),
    "guided": _unlearned("guided", needs="guidance"),
    "patch_kernel": Method((*ELBO, "patch_kernel"), needs="guidance"),
    "nda": _attributor("nda"),
    "tracin": _attributor("tracin"),
    "trak": _attributor("trak"),
    "dtrak": _attributor("dtrak"),
    "das": _attributor("das"),
    "relatif": _attributor("relatif"),
    "ekfac": _attributor("ekfac"),
    "abu": _attributor("abu", on=("digits",)),  # minutes of one core for 160 queries
    "mucs": _attributor("mucs", on=("digits",)),
    "clip": _attributor("clip", lacking=NO_ENCODER),
    "dinov2": _attributor("dinov2", lacking=NO_ENCODER),
    "contrastive": Method((*FEATURES, *CONTRASTIVE), on=("digits", "halves")),
    "random": _attributor("random"),
    "group_size": _attributor("group_size"),
    "class_probability": _attributor("class_probability", needs="guidance"),
    "erasediff": _unlearned("erasediff"),
    "siss": _unlearned("siss"),
    "salun_retrack": _unlearned("salun", operator="salun_retrack"),
    "retrack_capped": _unlearned("retrack_capped"),
    "esd": _unlearned("esd", lacking="it needs a conditional model"),
    "zero_target": _unlearned("zero_target"),
    "finetune": _unlearned("finetune"),
    "neggrad": _unlearned("neggrad"),
    "retrack_distill": _unlearned("retrack", *DISTILL, operator="retrack_distill"),
    "zero_target_distill": _unlearned("zero_target", *DISTILL, operator="zero_target_distill"),
}
