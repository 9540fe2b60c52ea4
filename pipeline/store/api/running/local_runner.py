"""The runner of a stored model where BentoML is not installed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from pipeline.errors import ConfigError
from pipeline.store.api.running.runnable import StoredRunnable, batch_dims


@dataclass(frozen=True)
class MethodConfig:
    """The signature of a runner's method.

    Attributes:
        batchable: Whether it accepts a list of images.
        batch_dim: The dimension that counts the images, of the input and of the output.
        input_spec: As saved with the model.
        output_spec: As saved with the model.
    """

    batchable: bool = False
    batch_dim: tuple[int, int] = (0, 0)
    input_spec: Any = None
    output_spec: Any = None


@dataclass(frozen=True)
class RunnerMethod:
    """One method of a runner: ``runner.predict.run(image)``.

    Attributes:
        runner: The runner.
        name: The method's name.
        config: Its signature.
        max_batch_size: As in BentoML, whose servers gather batches; without effect here.
        max_latency_ms: The same.
    """

    runner: LocalRunner = field(repr=False)
    name: str
    config: MethodConfig
    max_batch_size: int | None = None
    max_latency_ms: int | None = None

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method; the first call loads the model."""
        return getattr(self.runner.runnable(), self.name)(*args, **kwargs)

    async def async_run(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method without blocking the event loop. Concurrent calls run in turn."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.runner.thread, lambda: self.run(*args, **kwargs))


class LocalRunner:
    """BentoML's ``Runner`` in this process: the same methods, without BentoML's servers.

    Args:
        runnable_class: The class that loads the model.
        name: The runner's name.
        max_batch_size: As in BentoML, whose servers gather batches; without effect here.
        max_latency_ms: The same.
        method_configs: ``max_batch_size`` and ``max_latency_ms`` by method.
        embedded: As in BentoML, whose servers read it; without effect here.
        scheduling_strategy: The same.
    """

    def __init__(
        self,
        runnable_class: type[StoredRunnable],
        *,
        name: str,
        max_batch_size: int | None = None,
        max_latency_ms: int | None = None,
        method_configs: Mapping[str, Mapping[str, int]] | None = None,
        embedded: bool = False,
        scheduling_strategy: type | None = None,
    ) -> None:
        self.name = name
        self.runnable_class = runnable_class
        self.embedded = embedded
        self.scheduling_strategy = scheduling_strategy
        limits = {"max_batch_size": max_batch_size, "max_latency_ms": max_latency_ms}
        self.runner_methods = [
            RunnerMethod(
                self,
                method,
                MethodConfig(
                    batchable=signature["batchable"],
                    batch_dim=batch_dims(method, signature),
                    input_spec=signature.get("input_spec"),
                    output_spec=signature.get("output_spec"),
                ),
                **(limits | dict((method_configs or {}).get(method, {}))),
            )
            for method, signature in runnable_class.stored.info["signatures"].items()
        ]
        self.thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._loading = Lock()
        self._runnable: Any = None

    def init_local(self, quiet: bool = False) -> None:
        """Load the model; otherwise the first call loads it."""
        self.runnable()

    def init_client(self, *args: Any, **kwargs: Any) -> None:
        """Raise ConfigError, because there is no server to connect to."""
        raise ConfigError(
            "init_client connects to a runner of 'bentoml serve', and BentoML is not installed; "
            "call init_local"
        )

    def destroy(self) -> None:
        """Release the model."""
        with self._loading:
            self._runnable = None

    def runnable(self) -> Any:
        """Return the instance of the runnable, which is loaded once."""
        with self._loading:
            if self._runnable is None:
                self._runnable = self.runnable_class()
            return self._runnable

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Call the only method, or ``__call__`` if there are several."""
        return self._default().run(*args, **kwargs)

    async def async_run(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method without blocking the event loop. Concurrent calls run in turn."""
        return await self._default().async_run(*args, **kwargs)

    def _default(self) -> RunnerMethod:
        only = self.runner_methods[0]
        return only if len(self.runner_methods) == 1 else self.__getattr__("__call__")

    def __getattr__(self, name: str) -> RunnerMethod:
        known: list[RunnerMethod] = self.__dict__.get("runner_methods", [])
        methods = {method.name: method for method in known}
        if name not in methods:
            raise AttributeError(
                f"the model has no signature '{name}'; it has {', '.join(methods) or 'none'}"
            )
        return methods[name]
