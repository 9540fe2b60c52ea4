"""d2run with decoders that some files crash: ``crashing.py ARGUMENT...``.

A file that begins with ``fault:segfault`` does so to whatever process decodes it: d2run's own, or
a worker of failing_decoder.py.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def arm() -> None:
    from failing_decoder import faulty

    from pipeline.sources.decode import reading
    from runners.rundir import readers

    reading.decode_image = faulty
    command = [sys.executable, str(HERE / "failing_decoder.py")]
    readers.DecodeWorkers = functools.partial(  # type: ignore[misc, assignment]
        readers.DecodeWorkers, command=command
    )


if __name__ == "__main__":
    sys.path[:0] = [str(HERE.parents[1]), str(HERE)]
    import run

    arm()
    sys.exit(run.main())
