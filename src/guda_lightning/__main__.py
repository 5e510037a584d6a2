"""``python -m guda_lightning`` is ``guda``."""

from guda_lightning.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
