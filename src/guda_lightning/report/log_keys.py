"""The names of all that is logged: what docs/loggers.md lists, and what a dashboard shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Logged:
    """Something that is logged.

    Attributes:
        key: Its name; words in capitals stand for names of the user's.
        what: What it is.
        kind: What it is logged as.
    """

    key: str
    what: str
    kind: Literal["number", "table", "picture"] = "number"


@dataclass(frozen=True)
class LoggedBy:
    """What one command or callback logs.

    Attributes:
        title: Section of a dashboard.
        by: What logs it.
        keys: What it logs.
        is_open: Whether a dashboard shows it unfolded: the answer, and how it came about.
    """

    title: str
    by: str
    keys: Sequence[Logged]
    is_open: bool = False


def _section(name: str, title: str, by: str) -> LoggedBy:
    """What ``log_section`` logs."""
    return LoggedBy(
        title,
        by,
        (
            Logged(f"{name}/answer", "what was found, in sentences", "table"),
            Logged(f"{name}/table", "its numbers", "table"),
            Logged(f"{name}/chart", "a picture of them", "picture"),
            Logged(f"{name}/pictures", "images, where there are some", "picture"),
        ),
    )


def _scores(prefix: str, curves: str) -> tuple[Logged, ...]:
    return (
        Logged(f"{prefix}/heatmap", "scores of every query and group, with their unit", "picture"),
        Logged(
            f"{prefix}/scores",
            "a row a query: picture, groups, margin, every score with its ±, method, weighting, unit",
            "table",
        ),
        Logged(f"{prefix}/groups", "a row a group: mean score with its ±, queries led, verdict", "table"),
        Logged(f"{prefix}/curves", curves, "picture"),
    )


INFLUENCE = LoggedBy(
    "Influence during validation",
    "`ELBOAttributionCallback`",
    (
        Logged("influence/GROUP", "mean score of all queries, in nats under the weighting `elbo`"),
        Logged("influence/own", "the same of validation samples of the group that is unlearned"),
        Logged("influence/other", "the same of all others"),
        *_scores("influence", "influence while unlearning: this training's, or that of the store's records"),
    ),
    is_open=True,
)
LOGGED: tuple[LoggedBy, ...] = (
    LoggedBy(
        "Attribution",
        "`guda attribute`",
        _scores("attribution", "influence while unlearning, where the callback watched it"),
        is_open=True,
    ),
    LoggedBy(
        "Agreement",
        "`guda evaluate RUN --wandb PROJECT`",
        (
            Logged("agreement/WEIGHTING", "how well each method agrees with the oracle", "picture"),
            Logged("agreement/metrics", "all numbers of it, with their intervals", "table"),
        ),
        is_open=True,
    ),
    LoggedBy(
        "Fit",
        "`guda fit`, `guda retrain`, `guda ensemble`",
        (
            Logged("train/loss", "mean squared error of the predicted noise"),
            Logged("val/loss", "the same on the validation set"),
        ),
        is_open=True,
    ),
    LoggedBy(
        "Guide",
        "`guda guide`",
        (
            Logged("guide/loss", "cross-entropy of the classifier on noised samples"),
            Logged("guide/held_out_loss", "the same on held-out samples"),
        ),
    ),
    LoggedBy(
        "Unlearn",
        "`guda unlearn`, `UnlearnModule`",
        (
            Logged("unlearn/loss", "what the objective minimises"),
            Logged("unlearn/PART", "its parts and diagnostics, such as `forget`, `preserve`, `target_rms`"),
            Logged("unlearn/forget_loss", "denoising loss on validation samples of the group"),
            Logged("unlearn/retain_loss", "the same of all others"),
            Logged("unlearn/drift", "mean squared difference from the full model on retained samples"),
        ),
        is_open=True,
    ),
    INFLUENCE,
    LoggedBy(
        "Placebo",
        "`guda placebo`",
        (
            Logged("placebo/attributable/WEIGHTING", "share of the queries that random groups explain less"),
            Logged("placebo/queries", "p-value of every query", "table"),
        ),
    ),
    LoggedBy(
        "Without groups",
        "`guda sample --without GROUPS`",
        (Logged("without/pictures", "the queries beside what models without groups draw", "picture"),),
    ),
    _section("radius", "Counterfactual radius", "`guda sample --without GROUPS`"),
    _section("recalibrated", "Recalibrated classifier", "`guda guide --posterior recalibrated`"),
    _section("ensemble", "Ensemble", "`guda ensemble`"),
    _section("properties", "Properties", "`guda property`"),
    _section("balance", "Balanced set", "`guda balance`"),
    _section("audit", "Audit of the groups", "`guda groups`"),
    _section("curation", "Curation", "`guda curate --wandb PROJECT`"),
    _section("distribution", "Laws of training", "`guda evaluate --distribution --wandb PROJECT`"),
)
