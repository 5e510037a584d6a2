"""A linear head of classes: some of its rows stay as they are, others are fitted to features."""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 1e-3  # of half the squared weights, in nats; 1e-4 and 1e-2 agree less with training anew
_STEPS = 100  # evaluations of the loss at most; the loss is convex, and ends far earlier


def fit_rows(
    weight: Tensor,
    bias: Tensor,
    new: int,
    features: Tensor,
    classes: Tensor,
    importance: Tensor,
    ridge: float = RIDGE,
) -> tuple[Tensor, Tensor]:
    """Add classes to a softmax that is linear in features, by the cross-entropy of all classes.

    The rows that are given stay: what they say of their classes relative to each other is what they said. The
    loss is convex in the rows that are added, which begin at zero, so the result depends on nothing else.

    Args:
        weight: ``[classes, features]`` of the rows that stay; they may be none.
        bias: ``[classes]`` likewise.
        new: Number of classes to add, which are the last ones.
        features: ``[samples, features]``.
        classes: ``[samples]`` int64, of all classes.
        importance: ``[samples]`` what each counts for, at least 0.
        ridge: Nats that weights cost, for features of unit size: half of it times their squares. Some is
            needed where classes can be told apart without fail, as their weights would grow without end.

    Returns:
        ``[classes + new, features]`` and ``[classes + new]`` float64.
    """
    features, weight, bias = features.double(), weight.double(), bias.double()
    # Of unit size each: the ridge and the search for the minimum see all of them alike.
    scale = features.square().mean(dim=0).sqrt().clamp_min(1e-6)
    inputs, share = features / scale, importance.double() / importance.double().sum()
    fixed = features @ weight.T + bias
    added = torch.zeros(new, inputs.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [added],
        max_iter=_STEPS,
        max_eval=_STEPS,
        tolerance_grad=1e-5,
        tolerance_change=1e-8,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = torch.cat([fixed, inputs @ added[:, :-1].T + added[:, -1]], dim=1)
        entropy = torch.nn.functional.cross_entropy(logits, classes, reduction="none")
        value = entropy @ share + ridge / 2 * added[:, :-1].square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    found = added.detach()
    return torch.cat([weight, found[:, :-1] / scale]), torch.cat([bias, found[:, -1]])
