"""Limits where Python code may come from, in this process and in the ones it starts.

Never from the current directory by accident: it is often the folder of images, and a file
``json.py`` in it would run. So this module is imported before all others, and imports only what the
interpreter has already loaded itself: not ``pathlib``, not even ``__future__``.
"""

# ruff: noqa: PTH100, PTH109, PTH117, PTH119, PTH120
import os
import sys

_STANDARD = os.path.realpath(os.path.dirname(os.__file__))
_PROJECT = os.path.realpath(f"{os.path.realpath(__file__)}/../../..")
_START = (
    "import sys; sys.path[:] = {path}; import runpy; "
    "runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
)


def python_command(module: str, *args: str) -> list[str]:
    """Return the command that runs a module as ``python -m`` does, but isolated.

    The new process takes nothing from the current directory, from PYTHON* variables or from the
    user's site-packages. It imports from this process's own ``import_path()`` instead, so it finds
    the same packages however this one was started.

    Args:
        module: Name of an importable module; its ``__name__`` is ``"__main__"`` there.
        args: The arguments of the module, ``sys.argv[1:]``.
    """
    # the same UTF-8 mode, so that file names have the same bytes in the child
    flags = ["-I", "-X", f"utf8={sys.flags.utf8_mode}"]
    if sys.dont_write_bytecode:
        flags.append("-B")
    start = _START.format(path=ascii(import_path()), module=module)
    return [sys.executable, *flags, "-c", start, *args]


def find_program(name: str) -> str | None:
    """Return the path of a program or ``None``; PATH's relative entries are not searched."""
    import shutil

    return shutil.which(name, path=os.pathsep.join(filter(os.path.isabs, os.get_exec_path())))


def import_path() -> list[str]:
    """Return ``sys.path`` with the standard library first and without accidental entries.

    An entry is accidental if it is relative or is the current directory. The project's own
    directory, those named in PYTHONPATH and that of the script that was started are not.
    """
    here, wanted = _current_directory(), _wanted()
    path: dict[str, bool] = {}
    for entry in sys.path:
        if isinstance(entry, str) and (here or os.path.isabs(entry)):
            real = os.path.realpath(entry)
            if real in wanted or (os.path.isabs(entry) and real != here):
                path[os.path.abspath(entry)] = _is_standard(real)
    return sorted(path, key=lambda entry: not path[entry])


def clean_import_path() -> None:
    """Set ``sys.path`` of this process to ``import_path()``."""
    sys.path[:] = import_path()


def is_started_by_name() -> bool:
    """Return whether this package is imported because of ``python -m pipeline.store``.

    Python has then put the current directory in front of everything else.
    """
    return sys.argv[:1] == ["-m"] and any("pipeline.store" in each for each in sys.orig_argv[1:])


def _current_directory() -> str | None:
    try:
        return os.path.realpath(os.getcwd())
    except OSError:  # removed meanwhile
        return None


def _wanted() -> set[str]:
    """Return the directories that are wanted even if they are the current one."""
    named = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    folders = [*named, os.path.dirname(script)] if script else named
    return {_PROJECT, *map(os.path.realpath, folders)}


def _is_standard(real: str) -> bool:
    zipped = "python{}{}.zip".format(*sys.version_info)
    return real == _STANDARD or os.path.basename(real) in ("lib-dynload", zipped)
