"""The runnable and the runner of a stored model as BentoML's own classes, for its servers.

``bentoml serve`` starts each runner in its own process, which imports the service's module again
and finds the runner by its name. So nothing is pickled but arguments and results, and the process
opens the store by itself.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Mapping
from threading import Lock
from types import ModuleType
from typing import Any

from pipeline.store.api.running.runnable import StoredRunnable, batch_dims, runnable_method
from pipeline.store.disk.version import ModelVersion


def import_legacy() -> ModuleType | None:
    """Return the module ``bentoml.legacy``, or ``None`` where BentoML is not installed."""
    try:
        from bentoml import legacy
    except ImportError:
        return None
    return legacy


def bentoml_runnable(legacy: ModuleType, model: ModelVersion) -> Any:
    """Return a subclass of ``bentoml.legacy.Runnable`` for a stored model."""
    attributes = {
        "stored": model,
        "SUPPORTED_RESOURCES": ("nvidia.com/gpu", "cpu"),
        "SUPPORTS_CPU_MULTI_THREADING": True,
    }
    runnable: Any = type("Detectron2Runnable", (StoredRunnable, legacy.Runnable), attributes)
    for name, options in model.info["signatures"].items():
        runnable.add_method(
            runnable_method(name, options),
            name=name,
            batchable=options["batchable"],
            batch_dim=batch_dims(name, options),
            input_spec=options.get("input_spec"),
            output_spec=options.get("output_spec"),
        )
    return runnable


def bentoml_runner(legacy: ModuleType, model: ModelVersion, options: Mapping[str, Any]) -> Any:
    """Return a ``bentoml.legacy.Runner`` that loads its model on the first call.

    Without that, BentoML's runner raises outside of a server until ``init_local`` is called, unlike
    the local runner. BentoML's servers replace this placeholder just as BentoML's own.
    """
    with warnings.catch_warnings():
        # it recommends new-style services, for which there is load_model
        warnings.filterwarnings("ignore", "`Runner` is deprecated")
        runner = legacy.Runner(bentoml_runnable(legacy, model), **options)

    class LoadOnFirstCall(type(runner._runner_handle)):  # type: ignore[misc]
        def __init__(self) -> None:
            self._loading = Lock()

        def _local(self) -> Any:
            with self._loading:
                if runner._runner_handle is self:
                    runner.init_local(quiet=True)
            return runner._runner_handle

        def run_method(self, method: Any, *args: Any, **kwargs: Any) -> Any:
            return self._local().run_method(method, *args, **kwargs)

        async def async_run_method(self, method: Any, *args: Any, **kwargs: Any) -> Any:
            handle = await asyncio.to_thread(self._local)
            return await handle.async_run_method(method, *args, **kwargs)

    object.__setattr__(runner, "_runner_handle", LoadOnFirstCall())  # the class is frozen
    return runner
