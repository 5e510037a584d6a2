"""How well a classifier does that was given other groups than it was trained on."""

from __future__ import annotations

from guda_lightning.posteriors import PosteriorRecord, PosteriorStore
from guda_lightning.posteriors.trained import RECALIBRATED, TrainedClassifier
from guda_lightning.report.section import Section
from guda_lightning.scores import ScoreTable
from guda_lightning.storage.runs import RunFolder


def recalibrated_section(store: PosteriorStore, record: PosteriorRecord) -> Section:
    """How much of its groups a recalibrated classifier explains, beside the one it was made from.

    Args:
        store: Where it is.
        record: How it was made.
    """
    explained = TrainedClassifier.explained_by(store, record)
    rows = [
        (
            f"{level['first']}-{level['last']}",
            f"{level['accuracy']:.2f}",
            f"{level['cross_entropy']:.2f}",
            f"{level['ece_tempered']:.3f}",
            f"{level['temperature']:.2f}",
        )
        for level in record.levels
    ]
    return Section(
        name=RECALIBRATED,
        title="Other groups for a trained classifier",
        lines=[
            f"The classifier explains {explained:.0%} of the entropy of its groups on held-out samples, and "
            f"{record.hparams['base_explained']:.0%} of those that it was trained on.",
            "Rows of groups that stayed are as they were trained: of those, features drawn from their "
            "moments are tested, and of new ones held-out samples.",
            *_flattered(record.tested_on_trained),
        ],
        columns=("timesteps", "accuracy", "cross-entropy, nats", "calibration error", "temperature"),
        rows=rows,
    )


def recalibrated_section_of(run: RunFolder, table: ScoreTable) -> Section | None:
    """The section of a page; None where its scores come from no recalibrated classifier in its store."""
    if table.methods != (RECALIBRATED,):
        return None
    store = PosteriorStore(run.store)
    made = table.record.details.weights
    found = [record for record in store.records() if record.weights_hash in made]
    return recalibrated_section(store, found[0]) if found else None


def _flattered(number: int) -> list[str]:
    """What to say of sets of groups without held-out samples."""
    if not number:
        return []
    return [
        f"Of {number} sets of groups there are no held-out samples: these are tested on what the classifier "
        "learnt from, which flatters it."
    ]
