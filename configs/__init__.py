"""Complete runs and one file per stage, as YAML; this file makes the folder a package of the wheel."""
