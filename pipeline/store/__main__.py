"""``python -m pipeline.store``: the model store's commands."""

import sys

from pipeline.store.cli import main

if __name__ == "__main__":
    sys.exit(main())
