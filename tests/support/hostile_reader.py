"""Reads files that may hang or bloat their reader: one fork per file, with limits.

Lines of standard input are JSON, ``[reader, path]``; each is answered by a line, ``{"error": name,
"text": message, "mb": what it took, "signal": what ended it}``.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

_SECONDS = 30
_MEMORY = 768 << 20  # beside what the interpreter and torch have already


def readers() -> dict[str, Any]:
    from pipeline.models.categories import parse_class_names
    from pipeline.models.config_file import read_config, read_plain
    from pipeline.models.weights.unpickle import load_config
    from pipeline.models.weights.weights import read_weights
    from pipeline.store import ModelStore
    from pipeline.store.api.selftest import _arrays
    from pipeline.store.disk.version import read_version
    from pipeline.store.exchange.bento_reading import read_bento
    from pipeline.store.exchange.incoming import import_model

    def whole_entry(path: Path) -> None:
        entry = read_version(path)
        dict(entry.info)
        entry.categories  # noqa: B018 - it is parsed when it is asked for

    return {
        "weights": read_weights,
        "config": lambda path: read_config(str(path)),
        "plain": read_plain,
        "names": lambda path: parse_class_names(str(path)),
        "objects": load_config,
        "bento": read_bento,
        "selftest": _arrays,
        "entry": whole_entry,
        "import": lambda path: import_model(path, store=ModelStore(path.parent / "store")),
    }


def main() -> None:
    import safetensors.torch  # noqa: F401
    import torch

    from pipeline.models import plain_yaml
    from pipeline.models.weights import opcodes, unpickle

    torch.set_num_threads(1)
    known = readers()
    # a tenth of the limits, for a tenth of the time
    plain_yaml._MAX_NODES //= 10
    opcodes.MAX_VALUES //= 10
    unpickle.MAX_VALUES //= 10
    _say("ready")
    for line in sys.stdin:
        reader, path = json.loads(line)
        receiver, sender = os.pipe()
        pid = os.fork()
        if not pid:
            _answer(known[reader], Path(path), sender)
        os.close(sender)
        with open(receiver, encoding="utf-8") as file:  # noqa: PTH123
            answer = json.loads(file.read() or "{}")
        _, status = os.waitpid(pid, 0)
        _say(json.dumps(answer | {"signal": os.WTERMSIG(status)}))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _answer(read: Any, path: Path, sender: int) -> None:
    signal.alarm(_SECONDS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + _MEMORY, size + _MEMORY))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer: dict[str, Any] = {"error": None, "text": ""}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(path)
    except BaseException as exc:
        answer = {"error": type(exc).__name__, "text": str(exc)}
    answer["mb"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    os.write(sender, json.dumps(answer).encode())
    os._exit(0)


if __name__ == "__main__":
    main()
