"""What makes counterfactuals."""
