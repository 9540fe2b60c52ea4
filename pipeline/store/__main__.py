"""``python -m pipeline.store``: the model store's commands."""

import sys

from pipeline.store.command.cli import main
from pipeline.system.utf8 import ensure_utf8

if __name__ == "__main__":
    ensure_utf8()
    sys.exit(main())
