"""The words of a page, each explained once: on hover, and where the keyboard reaches them."""

from __future__ import annotations

GLOSSARY = {
    "mean": "Mean score of a group over all queries shown. Its ± is one standard error between "
    "queries: how far the mean would move with other queries.",
    "leads": "Number of queries whose highest score this group has, clear or not.",
    "score": "What the query has to do with the group. Its ± is one standard error of the estimate, of "
    "what stands in brackets beside it; it does not say how queries differ.",
    "undecided": "The two top groups lie within two combined standard errors: the order may be noise.",
    "clear": "The top group stands at least two combined standard errors above the second, no placebo test "
    "found random groups to explain the query as well, and the model without that group was not found "
    "invalid: the order is no noise of the estimate. Whether the method is right, the first lines of the "
    "page say.",
    "lead": "How far the top group stands above the second, in combined standard errors of the two.",
    "attributable": "No group influences this query more than random groups of its size do.",
    "weighting": "How much each noise level counts. What the one shown does stands at the end of How to read "
    "this.",
    "levels": "What each band of noise levels adds to the score, from little noise (fine detail) to "
    "much noise (composition). The parts sum to the score.",
    "nearest": "The training images of the group that differ least from the query, pixel by pixel. They "
    "look alike; that the model took anything from them, this does not say.",
    "verdict": "Whether the counterfactual stands for a model that never saw its group, tried on a few "
    "training samples.",
    "top1": "Share of queries for which a method and retraining name the same group first. 1 is "
    "perfect, chance is one divided by the number of groups.",
    "mrr": "Mean of 1 / the rank that a method gives to retraining's first group: 1 where it is "
    "always first.",
    "ndcg-3": "How well a method's first three groups are those of retraining, the first counting most; "
    "1 is perfect.",
    "ndcg-5": "How well a method's first five groups are those of retraining, the first counting most; "
    "1 is perfect.",
    "wpra-3": "Share of pairs of groups that a method orders as retraining does, weighted by how far "
    "they lie apart, for pairs with one of retraining's first three; 1 is perfect.",
    "wpra": "Share of pairs of groups that a method orders as retraining does, weighted by how far "
    "they lie apart; 1 is perfect.",
    "rbo": "Rank-biased overlap: how much the heads of two orders have in common, the first ranks "
    "counting most. Equal orders of K groups reach 1 − 0.9^K.",
    "spearman": "Rank correlation of all groups: 1 is the same order, 0 none, −1 the reverse.",
}
