"""PEP 517 backend that repackages the pure Python part of a published Detectron2 wheel.

It downloads the wheel with pip, checks its digest, keeps ``detectron2/`` without the ``.so``, and
writes a wheel with the metadata of ``[project]`` in pyproject.toml. README.md explains why.

Failures are raised as SystemExit, so that pip and uv show only the text, without a traceback.
"""

import base64
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HERE = Path(__file__).parent
SOURCE = "sal-detectron2==0.7.2"
SOURCE_SHA256 = "491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561"

# The source wheel is tagged for CPython 3.10 because of its extension, which is dropped. Request
# that tag with every Python.
PIP_DOWNLOAD = (
    *("download", "--no-deps", "--only-binary=:all:"),
    *("--python-version", "3.10", "--implementation", "cp", "--abi", "none", "--platform", "any"),
)

WHAT_TO_DO = """\
What to do, one of:
- Make a package index reachable and try again. pip's own settings are used (PIP_INDEX_URL,
  pip.conf), and so are uv's variables (UV_DEFAULT_INDEX, UV_INDEX, ...). An index that is set only
  in uv.toml or on uv's command line is not used.
- Without an index: put the wheel into a directory and set PIP_FIND_LINKS=DIRECTORY PIP_NO_INDEX=1.
- Use an official build of detectron2, any version from 0.6 on, instead of this one:
    uv sync --no-install-package detectron2
    uv pip install --no-build-isolation path/to/your/detectron2
  and then always `uv run --no-sync ...`. packaging/detectron2/README.md has the details."""


def get_requires_for_build_wheel(config_settings=None):
    """Return nothing: [build-system] requires is all that a build needs."""
    return []


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    """Write the dist-info directory without downloading anything.

    Args:
        metadata_directory: directory to write into.
        config_settings: unused, part of the hook's signature.

    Returns:
        Name of the new directory.
    """
    for name, data in _dist_info().items():
        path = Path(metadata_directory, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return _stem() + ".dist-info"


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    """Download, check and repackage the source wheel.

    Args:
        wheel_directory: directory to write the wheel into.
        config_settings: unused, part of the hook's signature.
        metadata_directory: unused; the metadata is written again from the same table.

    Returns:
        File name of the new wheel.

    Raises:
        SystemExit: the source wheel is unavailable, or is not the reviewed one.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = download(folder)
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        if digest != SOURCE_SHA256:
            raise SystemExit(
                f"detectron2 was not built: {source.name} is not the reviewed file.\n"
                f"Expected SHA-256 {SOURCE_SHA256}\nbut got          {digest}.\n"
                "Nothing was installed. Check which file your index serves under that name.\n"
                + WHAT_TO_DO
            )
        with zipfile.ZipFile(source) as archive:
            files = {
                name: archive.read(name)
                for name in archive.namelist()
                if name.startswith("detectron2/") and not name.endswith(("/", ".so"))
            }
    name = _stem() + "-py3-none-any.whl"
    _write_wheel(Path(wheel_directory, name), {**files, **_dist_info()})
    return name


def build_sdist(sdist_directory, config_settings=None):
    """Refuse: the published wheel is the only source.

    Raises:
        SystemExit: always.
    """
    raise SystemExit(
        "detectron2 has no source archive here: it is repackaged from a published wheel. "
        "Build the wheel instead, for example with `pip wheel --no-deps ./packaging/detectron2`."
    )


def download(folder):
    """Download the source wheel with pip, from the index that pip is configured for.

    Args:
        folder: destination.

    Returns:
        Path of the wheel.

    Raises:
        SystemExit: pip could not download it.
    """
    command = [sys.executable, "-m", "pip", *PIP_DOWNLOAD, "--dest", str(folder), SOURCE]
    environ = pip_environment(os.environ)
    result = subprocess.run(command, env=environ, capture_output=True, text=True)
    if result.returncode != 0:
        said = "\n".join("  " + line for line in result.stderr.strip().splitlines()[-8:])
        raise SystemExit(
            f"detectron2 was not built: {SOURCE} could not be downloaded.\n"
            f"Tried: python {' '.join(command[1:])}\npip said:\n{said}\n" + WHAT_TO_DO
        )
    return next(Path(folder).glob("*.whl"))


def pip_environment(environ):
    """Translate uv's index variables for pip, which does not read them; pip's own variables win.

    Args:
        environ: the environment that the build runs in.

    Returns:
        The environment for pip.
    """
    extra = [environ.get("UV_INDEX"), environ.get("UV_EXTRA_INDEX_URL")]
    offline = [environ.get("UV_OFFLINE"), environ.get("UV_NO_INDEX")]
    from_uv = {
        "PIP_INDEX_URL": environ.get("UV_DEFAULT_INDEX") or environ.get("UV_INDEX_URL"),
        "PIP_EXTRA_INDEX_URL": " ".join(filter(None, extra)),
        "PIP_FIND_LINKS": environ.get("UV_FIND_LINKS", "").replace(",", " "),
        "PIP_NO_INDEX": "1" if {"1", "true"}.intersection(offline) else None,
    }
    # uv allows "name=address"; pip expects the address.
    name = re.compile(r"(^| )[\w.-]+=")
    translated = {key: name.sub(r"\1", value) for key, value in from_uv.items() if value}
    return {**translated, **environ}


def _project():
    return tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _stem():
    project = _project()
    return f"{project['name']}-{project['version']}"


def _dist_info():
    """Return the files of the dist-info directory except RECORD, as {name: bytes}."""
    project = _project()
    metadata = [
        "Metadata-Version: 2.4",
        f"Name: {project['name']}",
        f"Version: {project['version']}",
        f"Summary: {project['description']}",
        f"License-Expression: {project['license']}",
        *(f"License-File: {name}" for name in project["license-files"]),
        f"Requires-Python: {project['requires-python']}",
        *(f"Requires-Dist: {requirement}" for requirement in project["dependencies"]),
        "Description-Content-Type: text/markdown",
        "",
        (HERE / project["readme"]).read_text(encoding="utf-8"),
    ]
    wheel = [
        "Wheel-Version: 1.0",
        "Generator: d2run packaging/detectron2",
        "Root-Is-Purelib: true",
        "Tag: py3-none-any",
        "",
    ]
    folder = _stem() + ".dist-info"
    files = {
        f"{folder}/METADATA": "\n".join(metadata).encode(),
        f"{folder}/WHEEL": "\n".join(wheel).encode(),
    }
    for name in project["license-files"]:
        files[f"{folder}/licenses/{name}"] = (HERE / name).read_bytes()
    return files


def _write_wheel(path, files):
    """Write a reproducible wheel: sorted, without dates, uncompressed."""
    record_name = _stem() + ".dist-info/RECORD"
    record = ""
    for name, data in sorted(files.items()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(data)}\n"
    record += f"{record_name},,\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in [*sorted(files.items()), (record_name, record.encode())]:
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # Unix on every platform, so that the bytes are the same
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
