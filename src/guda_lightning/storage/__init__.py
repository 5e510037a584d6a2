"""Files that are either whole or absent, and the folder of a run."""
