"""Where training images come from: each source is one file and one class, named in YAML by ``class_path``."""
