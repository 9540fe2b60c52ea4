"""A plain Hydra application, whose jobs record when and where they run."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

log = logging.getLogger(__name__)


@dataclass
class Config:
    """The options.

    Attributes:
        x: What differs between jobs.
        records: Where jobs write.
        together: That many jobs wait for one another at first.
        deaths: How jobs end, as in ``3-exit``, unless the environment variable CURED is set.
        device: The name of a device.
    """

    x: int = 0
    records: str = "records"
    together: int = 1
    deaths: list[str] = field(default_factory=list)
    device: str = "cuda"


ConfigStore.instance().store(name="launcher_app", node=Config)


@hydra.main(version_base="1.3", config_path=None, config_name="launcher_app")
def main(cfg: Config) -> int:
    config = OmegaConf.to_object(cfg)  # a class of the script itself
    assert isinstance(config, Config)
    records, slot = Path(config.records), os.environ["CUDA_VISIBLE_DEVICES"]
    with (records / f"lock-{slot}").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            (records / f"violation-{config.x}").touch()
        number = HydraConfig.get().job.num
        with (records / "started.jsonl").open("a") as file:
            print(json.dumps([config.x, number, slot, os.getpid()]), file=file)
        while len((records / "started.jsonl").read_text().splitlines()) < config.together:
            time.sleep(0.01)
        sys.stdout.write(f"job of x={config.x}\n")
        log.info("logged by x=%d", config.x)
        deaths = dict(each.split("-") for each in config.deaths)
        death = "" if "CURED" in os.environ else deaths.get(str(config.x))
        if death == "exit":
            os._exit(9)
        if death == "raise":
            raise ValueError("no such\nthing")
        if death == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if death in ("hang", "orphan"):
            child = subprocess.Popen(["sleep", "600"])
            (records / "child").write_text(str(child.pid))
            if death == "hang":
                child.wait()
        if death == "leave":
            sys.exit()
    return 10 * config.x


if __name__ == "__main__":
    main()
