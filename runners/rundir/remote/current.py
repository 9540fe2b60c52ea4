"""The copy of the output of a run in progress, if it has one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from pipeline.errors import ConfigError, OutputError, PipelineError
from pipeline.job import Job
from pipeline.system.output_folder import observed
from pipeline.system.terminal import print_stderr
from runners.rundir.ledger.ledger import NAME as LEDGER
from runners.rundir.owned.names import LISTS
from runners.rundir.remote.checkpoint import FOLDER
from runners.rundir.remote.mirror import Mirror
from runners.rundir.remote.owner import Owner
from runners.rundir.remote.restore import restore
from runners.rundir.remote.store import ObjectStore
from runners.rundir.remote.uploads import Uploads
from runners.rundir.translation import output_errors

_PROBE = f"{FOLDER}/probe"
_mirrors: dict[Path, Mirror] = {}


def mirror_of(output: Path) -> Mirror | None:
    """Return the copy of a run directory; ``None`` if it has none."""
    return _mirrors.get(output)


@contextmanager
def mirrored(job: Job, every_s: float, *, has_workers: bool = False) -> Iterator[Mirror | None]:
    """Keep a copy of a job's output while the block runs, if it has an address.

    Args:
        job: The job; its output is locked.
        every_s: Seconds between checkpoints.
        has_workers: Whether workers upload files of their own.

    Raises:
        ConfigError: A package is missing, or the address holds something else.
        OutputError: The store cannot be reached, or refuses.
    """
    if job.address is None:
        yield None
        return
    store = ObjectStore(job.address)
    uploads = Uploads(store, job.output, is_complete=not has_workers)
    with ExitStack() as stack:
        stack.callback(uploads.close)
        store.write(_PROBE, b"")  # what is wrong with the address is known before the work
        store.remove(_PROBE)
        with output_errors(job.output):
            owner = Owner(store, job.output)
            if owner.last is not None and owner.is_elsewhere:
                number = restore(store, owner, owner.last, job.output)
                print_stderr(
                    f"restored {number} files of '{store.shown}' from the checkpoint of "
                    f"{owner.last}"
                )
            elif owner.last is None and owner.is_new:
                _refuse_foreign(job, store)
            uploads.recover()
        mirror = Mirror(job, store, owner, uploads, every_s)
        stack.enter_context(observed(job.output, uploads))
        stack.callback(_mirrors.pop, job.output)
        _mirrors[job.output] = mirror
        try:
            yield mirror
        except (ConfigError, OutputError):
            raise  # nothing was started, or nothing can be written
        except BaseException:
            with suppress(PipelineError, OSError):
                mirror.save()
            raise


@contextmanager
def uploading(job: Job) -> Iterator[Uploads]:
    """Upload what a worker writes while the block runs.

    Raises:
        ConfigError: A package is missing.
    """
    store = ObjectStore(job.address or "")
    with output_errors(job.output):
        job.output.mkdir(parents=True, exist_ok=True)
    uploads = Uploads(store, job.output, is_complete=False)
    with closing(uploads), observed(job.output, uploads):
        yield uploads


def _refuse_foreign(job: Job, store: ObjectStore) -> None:
    """Refuse to overwrite objects that no run into this address has written."""
    there = store.top_names()
    own = dict.fromkeys((*LISTS, "run.json", LEDGER, *job.outputs()))
    for name in own:
        if name.partition("/")[0] in there:
            raise ConfigError(
                f"'{store.shown}' holds {name}, which no run with this output wrote; choose "
                "another output"
            )
