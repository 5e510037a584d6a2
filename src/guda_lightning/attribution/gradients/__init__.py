"""Attribution by gradients of a network's outputs with respect to its weights."""
