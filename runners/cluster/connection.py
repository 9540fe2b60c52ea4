"""Connects to Ray, or starts it here, and decides how many workers there are, of which size."""

from __future__ import annotations

import importlib
import logging
import os
import secrets
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, PipelineError, printable
from pipeline.system.files import locked_folder
from runners.cluster.addresses import check_port, check_token, has_token
from runners.cluster.signals import signals_deferred

_log = logging.getLogger("d2run")

_STORE_BYTES = 128 << 20  # answers only: images never pass through Ray
_REMOVE_S = 0.5
_TRIES = 3  # Ray gives up after 30 s, which a busy machine may need
_MAX_DECODE_THREADS = 8
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # Ray would send statistics to its makers
    # or a driver whose cluster is gone would be ended by Ray after a minute
    "RAY_gcs_rpc_server_reconnect_timeout_s": "2000000",
    "RAY_ENABLE_AUTO_CONNECT": "0",  # or a client that is disconnected would start another Ray
    "GRPC_VERBOSITY": "NONE",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # without it, a warning
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run`, Ray would send the working directory
}


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many workers there are, and what each gets.

    Attributes:
        number: Number of workers.
        on_gpu: Whether each has a GPU of its own.
        cpus: CPU cores of each.
        are_alone: Whether each has all cores of its machine.
    """

    number: int
    on_gpu: bool
    cpus: int
    are_alone: bool = False

    @property
    def decode_threads(self) -> int:
        """The default number of assets that a worker decodes at the same time."""
        return max(1, min(_MAX_DECODE_THREADS, self.cpus // 2))


@contextmanager
def connected(address: str, workers: int | str, packages: Sequence[str] = ()) -> Iterator[Any]:
    """Yield the module ``ray``, connected to a cluster, which ends with the block if it is local.

    Args:
        address: See ``WorkerOptions``.
        workers: Number of workers, or ``auto``.
        packages: Folders of Python packages that are sent to the workers.

    Raises:
        ConfigError: There is no cluster at the address, or one with other versions.
    """
    address = os.environ.get("RAY_ADDRESS", "local") if address == "auto" else address
    is_local = address == "local"
    environment = dict(_QUIET)
    if is_local:  # or whoever reaches its ports could run code here
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _token()}
    elif has_token():  # a cluster that does not ask for one ignores it
        environment["RAY_AUTH_MODE"] = "token"
    with ExitStack() as stack:
        stack.enter_context(_environment(environment))
        folder = stack.enter_context(_session_folder()) if is_local else None
        with signals_deferred():
            ray: Any = importlib.import_module("ray")
            _quiet_errors()
            stack.callback(_disconnect, ray)
            _connect(ray, address, workers, folder, packages)
        yield ray


@cache  # Ray reads it once
def _token() -> str:
    return secrets.token_hex(32)


@contextmanager
def _session_folder() -> Iterator[str]:
    """Yield a folder for the logs and sockets of a local Ray, whose paths must be short."""
    folder, lock = locked_folder("d2run-cluster-", Path("/tmp"))
    try:
        yield str(folder)
    finally:
        _remove(folder)
        os.close(lock)


def _remove(folder: Path) -> None:
    for _ in range(_TRIES):  # Ray's processes may still write
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(_REMOVE_S)


def _disconnect(ray: Any) -> None:
    with signals_deferred():
        ray.shutdown()


def sizes(
    nodes: Sequence[Mapping[str, Any]], device: str, workers: int | str, option: str = "workers"
) -> Sizes:
    """Decide on the workers.

    Args:
        nodes: ``ray.nodes()``.
        device: ``auto``, ``cpu`` or ``cuda``.
        workers: A number, or ``auto``.
        option: Name of the runner's option with that number.

    Raises:
        ConfigError: There are not as many devices.
    """
    found: list[dict[str, float]] = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = [int(each.get("GPU", 0)) for each in found]
    cpus = [int(each.get("CPU", 0)) for each in found]
    n_gpus = sum(gpus)
    if device == "cuda" or (device == "auto" and n_gpus):
        if not n_gpus:
            hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
            raise ConfigError(
                f"device=cuda: no machine of the cluster has a GPU"
                f"{' (CUDA_VISIBLE_DEVICES hides those of this one)' if hidden else ''}; add one,"
                " or set device=cpu"
            )
        number = n_gpus if workers == "auto" else int(workers)
        if number > n_gpus:
            raise ConfigError(f"runner.{option}={number}: the cluster has {n_gpus} GPUs")
        per_gpu = [cpu // gpu for cpu, gpu in zip(cpus, gpus, strict=True) if gpu]
        return Sizes(number, True, max(1, min(per_gpu)))
    usable = [cpu for cpu in cpus if cpu]
    if not usable:
        raise ConfigError("device=cpu: no machine of the cluster has a CPU to spare")
    if workers == "auto":
        share = min(usable)
        return Sizes(_places(usable, share), False, share, max(usable) == share)
    number = int(workers)
    if number > sum(usable):
        raise ConfigError(f"runner.{option}={number}: the cluster has {sum(usable)} CPU cores")
    fitting = [n for n in range(1, max(usable) + 1) if _places(usable, n) >= number]
    return Sizes(number, False, fitting[-1])


def _places(cpus: Sequence[int], share: int) -> int:
    return sum(cpu // share for cpu in cpus)


def package_folders(names: Sequence[str]) -> list[str]:
    """Return the folders of the user's packages among ``trusted_packages``.

    Raises:
        ConfigError: A package is a single file, which Ray does not send.
    """
    found = []
    for name in (each for each in names if each not in ("pipeline", "runners")):
        spec = find_spec(name)
        places = list(spec.submodule_search_locations or ()) if spec is not None else []
        if not places:
            raise ConfigError(f"runner.send_packages: '{name}' is not a package in a folder")
        found.append(str(Path(places[0]).absolute()))
    return found


def _connect(
    ray: Any, address: str, workers: int | str, folder: str | None, packages: Sequence[str]
) -> None:
    given: dict[str, Any] = {"log_to_driver": False, "logging_level": "CRITICAL"}
    if packages:
        given["runtime_env"] = {"py_modules": list(packages)}
    if folder is not None:
        _start_here(ray, workers, folder, given)
        return
    where = f"runner.address={address}"
    if os.environ.get("RAY_ADDRESS") == address:
        where = f"RAY_ADDRESS={address} in the environment"
    is_client = address.startswith("ray://")
    if is_client and find_spec("grpc") is None:
        raise ConfigError(f"{where}: it needs Ray's client. Run: pip install 'ray[client]'")
    try:
        if address[-1].isdigit():  # not RAY_ADDRESS=auto
            check_port(address.removeprefix("ray://"))  # Ray itself would try for minutes
            if not is_client:
                check_token(ray, address, where)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(address=address, **given)
        for name in ("ray", "ray.util.client.logsclient"):  # what ray:// does not do
            logging.getLogger(name).setLevel(logging.CRITICAL)
    except ConfigError:
        raise
    except Exception as exc:  # of no type of its own
        text = _line(exc)
        if "ersion" in text and isinstance(exc, RuntimeError):
            raise ConfigError(f"{where}: other versions there: {text}") from exc
        raise ConfigError(f"{where}: no Ray cluster answers there: {text}") from exc


def _start_here(ray: Any, workers: int | str, folder: str, given: Mapping[str, Any]) -> None:
    cores = os.cpu_count() or 1
    for left in reversed(range(_TRIES)):
        try:
            ray.init(
                address="local",
                num_cpus=max(cores, workers) if isinstance(workers, int) else None,
                include_dashboard=False,
                object_store_memory=_STORE_BYTES,
                _temp_dir=folder,
                **given,
            )
            return
        except Exception as exc:  # of no type of its own
            ray.shutdown()
            if not left or "timed out" not in str(exc):
                text = f"Ray does not start on this machine: {_line(exc)}"
                raise PipelineError(text) from exc


def _quiet_errors() -> None:
    """Log what Ray would print about each worker that dies; it has no option for that."""
    module = importlib.import_module("ray._private.worker")
    if hasattr(module, "print_to_stdstream"):
        module.print_to_stdstream = _log_briefly  # type: ignore[attr-defined]


def _log_briefly(data: Mapping[str, Any], **_: Any) -> None:
    for line in data.get("lines", ())[:1]:
        _log.info("ray: %s", printable(str(line).partition("\n")[0])[:300])


def _line(exc: BaseException) -> str:
    text = " ".join(str(exc).split())
    if "Traceback (most" in text:  # of the other side
        text = text.rpartition("Error: ")[2]
    return printable(text)[:300]


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables that are not set, for the processes that start in the block."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
