"""A fake ``nvidia-smi``."""

from __future__ import annotations

from pathlib import Path

QUERY = "--query-gpu=index,uuid,memory.total,memory.free --format=csv,noheader,nounits"


def write_nvidia_smi(folder: Path, gpus: str, *, listed: str = "", status: int = 0) -> Path:
    """Write a program that answers the launcher's queries, and return its directory.

    Args:
        folder: Where to write.
        gpus: What it prints for QUERY.
        listed: What it prints for ``-L``.
        status: Its exit status.
    """
    folder.mkdir(exist_ok=True)
    (folder / "gpus.csv").write_text(gpus)
    (folder / "listed.txt").write_text(listed)
    program = folder / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\n"
        f'case "$*" in\n'
        f'  "{QUERY}") cat "{folder}/gpus.csv" ;;\n'
        f'  "-L") cat "{folder}/listed.txt" ;;\n'
        f'  *) echo "unexpected: $*"; exit 99 ;;\n'
        f"esac\n"
        f"exit {status}\n"
    )
    program.chmod(0o755)
    return folder


def rows(n: int, total: int = 16000, free: int = 15000) -> str:
    """Return the lines of that many GPUs."""
    return "".join(f"{i}, GPU-{i:08d}-aa, {total}, {free}\n" for i in range(n))
