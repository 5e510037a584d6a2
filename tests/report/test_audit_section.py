"""What an audit says, and what it does not claim."""

from __future__ import annotations

from typing import Any

from guda_lightning.report.audit_section import audit_section
from guda_lightning.stages.audited import static
from toys import shades


def test_verdicts_say_what_chance_would_give() -> None:
    frame, about = static(shades(4))
    record: dict[str, Any] = {**about, "missing": []}
    assert list(audit_section(frame, record).lines) == [
        "3 groups over 12 samples, of 4 to 4 samples each.",
    ]
    frame[["agree", "low", "high", "nearest_agree", "agree_random"]] = 0.5
    frame["calibration"], frame["calibration_chance"] = [0.1, 0.3, None], [0.2, 0.2, None]
    first, _, calibration = audit_section(frame, record).lines
    assert first == (
        "Two modes are not shown in any of 3 groups: no half is, beyond chance, less like its other half "
        "than like another group, or random halves are, too. More queries may show some."
    )
    assert calibration == (
        "The classifier is off by more than 95 % of calibrated ones are for 1 of 2 groups "
        f"({frame.group[1]}); were it calibrated, 0.1 of 2 would be by chance. It was not trained on the "
        "held-out samples that say so, but its temperatures were fitted to them."
    )
    frame.loc[0, "hides_two"] = True
    assert audit_section(frame, record).lines[0] == (
        f"1 of 3 groups show two modes ({frame.group[0]}): a half of each is less like its other half than "
        "like another group, and random halves are not. Of groups without two modes, 0.1 of 3 would be "
        "marked by chance."
    )


def test_pairs_of_one_content_have_no_error() -> None:
    frame, about = static(shades(4))
    record: dict[str, Any] = {**about, "missing": [], "pairs": 3, "contents": 1}
    record |= {"pair_share": 0.9, "pair_stderr": None}
    assert audit_section(frame, record).lines[-1] == (
        "Of 3 pairs of queries with the same content in two groups, 90% of the difference of scores, all of "
        "one content, so that no error is known, sits on the two; 67% by chance."
    )
    record |= {"pairs": 4, "contents": 2, "pair_stderr": 0.05}
    assert audit_section(frame, record).lines[-1] == (
        "Of 4 pairs of queries with the same content in two groups, 90% of the difference of scores, ± 5% "
        "over 2 contents, sits on the two; 67% by chance."
    )
