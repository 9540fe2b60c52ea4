"""``multirun.yaml``, Hydra's record of a sweep, written as all records are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from pipeline.redaction import redacted
from pipeline.system.files import write_whole


def redact_sweeps() -> None:
    """Have Hydra write the record without secrets, and through no symbolic link.

    Its sweeper writes it with ``OmegaConf.save``, the only thing that it has of OmegaConf.
    """
    from hydra.core.plugins import Plugins

    Plugins.instance()  # loads the module again
    from hydra._internal.core_plugins import basic_sweeper

    basic_sweeper.OmegaConf = _Records  # type: ignore[attr-defined, assignment]


class _Records:
    @staticmethod
    def save(config: Any, f: str | Path) -> None:
        content = redacted(OmegaConf.to_container(config, enum_to_str=True))
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        write_whole(Path(f), text.encode(errors="surrogateescape"))
