"""How well attributions agree with the oracle, and whether there is anything to attribute."""

from guda_lightning.evaluation.agreement import Agreement, agreement
from guda_lightning.evaluation.calibration import Calibration, calibrate, choose, refuse_none_held_out
from guda_lightning.evaluation.lds import lds
from guda_lightning.evaluation.metrics import MRR, NDCG, RBO, WPRA, Spearman, Top1Agreement
from guda_lightning.evaluation.placebo_test import PlaceboTest, placebo_test, refuse_few

__all__ = [
    "MRR",
    "NDCG",
    "RBO",
    "WPRA",
    "Agreement",
    "Calibration",
    "PlaceboTest",
    "Spearman",
    "Top1Agreement",
    "agreement",
    "calibrate",
    "choose",
    "lds",
    "placebo_test",
    "refuse_few",
    "refuse_none_held_out",
]
