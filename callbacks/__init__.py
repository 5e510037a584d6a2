"""One callback per YAML file; this file makes the folder a package of the wheel."""
