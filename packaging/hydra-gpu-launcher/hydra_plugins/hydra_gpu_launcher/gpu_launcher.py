"""The launcher, and its options with their defaults. Hydra imports this at every start.

It lacks ``from __future__ import annotations``: a dataclass with it looks into ``sys.modules``,
where Hydra puts the module of a plugin only after its import.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

log = logging.getLogger(__name__)


@dataclass
class GpuLauncherConf:
    """The options; ``_options.py`` checks them, and README.md describes them."""

    _target_: str = "hydra_plugins.hydra_gpu_launcher.gpu_launcher.GpuLauncher"
    devices: Any = "auto"
    jobs_per_device: Any = 1
    min_free_mb: Any = 0
    start_interval_s: Any = 0
    retries: Any = 0
    on_failure: Any = "continue"
    slots: Any = None
    skip_finished: Any = False
    stop_timeout_s: Any = 30


ConfigStore.instance().store(
    group="hydra/launcher", name="gpu", node=GpuLauncherConf, provider="hydra_gpu_launcher"
)


class GpuLauncher(Launcher):
    """Runs the jobs of a sweep in parallel, each in a process that sees one GPU.

    Args:
        options: ``hydra.launcher.*``, not checked yet.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self._given = options

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Check the options and find the GPUs.

        Raises:
            LauncherError: An option is wrong, or there is no such GPU.
        """
        from hydra_plugins.hydra_gpu_launcher._devices import find_slots
        from hydra_plugins.hydra_gpu_launcher._options import read_options

        self._context, self._task, self._config = hydra_context, task_function, config
        self._options = read_options(**self._given)
        self._slots = find_slots(self._options)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run jobs, and return their results in the same order.

        Raises:
            LauncherError: A job names a device that it will not have.
        """
        from hydra_plugins.hydra_gpu_launcher._launching import launch

        return launch(
            job_overrides,
            initial_job_idx,
            context=self._context,
            task=self._task,
            config=self._config,
            options=self._options,
            slots=self._slots,
        )
