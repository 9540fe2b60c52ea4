"""An executor whose work is done by another process, in an order of its own, and twice.

python elsewhere.py ARGUMENT... < assets > outcomes      # the other process; both pickled
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from pipeline.job import Outcome
from pipeline.protocols import Asset, Durable


class Elsewhere:
    """Returns the outcomes backwards, each followed by a copy of itself or of an earlier one.

    Args:
        arguments: Of the command line of the job.
    """

    def __init__(self, arguments: tuple[str, ...]) -> None:
        self.arguments = arguments

    def run(self, assets: Iterable[Asset]) -> Iterator[Outcome]:
        paths = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
        done = subprocess.run(
            [sys.executable, __file__, *self.arguments],
            input=pickle.dumps(list(assets)),
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr.decode()[-4000:]
        pickled: list[bytes] = pickle.loads(done.stdout)
        pickled.reverse()
        for i, data in enumerate(pickled):
            yield pickle.loads(data)
            yield pickle.loads(pickled[i // 2])


def main() -> None:
    """Run the assets, and write each outcome once its files are durable."""
    from batches import job_of

    import pipeline.system.spool
    from pipeline.engine.local import LocalExecutor

    pipeline.system.spool._MAX_BYTES = 0  # so that files travel, not bytes
    assets = pickle.load(sys.stdin.buffer)
    job = job_of(*sys.argv[1:])
    outcomes = []
    with ExitStack() as stack:
        stack.enter_context(job.runnable)
        for sink in job.sinks.values():
            stack.enter_context(sink)
        for outcome in LocalExecutor(job).run(assets):
            for sink in job.sinks.values():
                if isinstance(sink, Durable):
                    sink.sync()
            outcomes.append(pickle.dumps(outcome))
    sys.stdout.buffer.write(pickle.dumps(outcomes))


if __name__ == "__main__":
    main()
