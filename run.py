"""d2run's command: ``python run.py --help``."""

from __future__ import annotations

import sys
import time

_STARTED = time.time()  # before the imports, which take most of the start-up time

from runners.rundir.lock import forget_early, hold_early  # noqa: E402


def main() -> int:
    """Run what the command line asks for.

    Returns:
        The exit status (docs/run.md).
    """
    if sys.getfilesystemencoding() != "utf-8":  # otherwise not worth the import
        from pipeline.system.utf8 import ensure_utf8

        ensure_utf8()
    try:
        if "--version" in sys.argv[1:]:
            from pipeline.system.versions import VERSION

            print(f"d2run {VERSION}")  # noqa: T201
            return 0
        status = hold_early(sys.argv[1:])  # before the slow imports of the entry point
        if status is not None:
            return status
        from pipeline.system.children import clean_import_path

        clean_import_path()
        from runners.entry import main as entry

        return entry(_STARTED)
    except KeyboardInterrupt:  # during those imports
        print("error: interrupted; nothing was started", file=sys.stderr)  # noqa: T201
        return 130
    finally:
        forget_early()


if __name__ == "__main__":
    sys.exit(main())
