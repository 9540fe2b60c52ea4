"""Writes a service for BentoML's server: a directory that ``bentoml build`` packs with its model.

The service is ``examples/bentoml_service/service.py``, unchanged. Beside it lies a model store with
one model, so neither BentoML's store nor the user's is needed where the service runs.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from pipeline.errors import StoreError, UntrustedModelError
from pipeline.store.disk.pointers import update_latest
from pipeline.store.disk.version import EXTERNAL_MODULES, ModelVersion
from pipeline.system.versions import VERSION, library_versions

BENTOFILE = "bentofile.yaml"

# in a wheel (pyproject.toml puts it there), and in the repository
_SERVICES = (
    Path(__file__).with_name("bento_service") / "service.py",
    Path(__file__).parents[3] / "examples" / "bentoml_service" / "service.py",
)

_BENTOFILE = """\
# What `bentoml build` packs, and how `bentoml containerize` installs it.
service: "service:DetectronService"
name: {name}
labels:
  model: {tag}
args:
  tag: {tag}
  trust: {trust}
python:
  requirements_txt: requirements.txt
  lock_packages: false  # the versions are exact, and building needs no network
docker:
  system_packages: [libgl1, libglib2.0-0]  # of OpenCV
"""

_README = """\
# {tag}

A service for [BentoML](https://docs.bentoml.com)'s server, written by

```bash
python -m pipeline.store export {tag} DIR --format bento-service
```

| file | content |
|---|---|
| `service.py` | the service; change it as you like |
| `bentofile.yaml` | name, model and packages of the Bento |
| `requirements.txt` | the versions that the model was exported with |
| `models/` | a model store of d2run with the model |
| `wheels/` | packages that are not on the package index, for the container |

## Serve

In this directory, with d2run and `bentoml>=1.4.39,<1.5` installed:

```bash
bentoml serve .
curl -F images=@photo.jpg http://localhost:3000/predict
```

The answer has `boxes`, `scores`, `classes` and `class_names` for each image. What is not an image
gets the status 400.

## Build

```bash
bentoml build .
bentoml serve {name}:latest
```

The model is in the Bento, in `src/models`. BentoML does not list it under `models`, where only
models of its own store are listed, but it shows the label `model`. It warns about the size of the
weights; that has no effect.

## Containerize

The container installs d2run and Detectron2 from `wheels/`. Write them there from a clone of d2run,
and then build again:

```bash
pip wheel --no-deps --wheel-dir wheels path/to/d2run path/to/d2run/packaging/detectron2
bentoml build .
bentoml containerize {name}:latest
```

With another build of Detectron2, put its wheel there and its name into `requirements.txt`.
"""

_WHEELS = """\
Put the wheels of d2run and Detectron2 here before `bentoml containerize`: see ../README.md.
"""


def write_service(model: ModelVersion, folder: Path) -> None:
    """Write a model and a service for it to an empty directory.

    Args:
        model: The model. If it has external modules, it must be opened with ``trust=True``, because
            the service imports them.
        folder: The directory.

    Raises:
        UntrustedModelError: It has external modules, and was opened without ``trust=True``.
        StoreError: The service is missing in this installation.
        OSError: A file cannot be written.
    """
    needs_trust = EXTERNAL_MODULES in model.info["files"]
    if needs_trust and not model.trust:
        raise UntrustedModelError(
            f"'{model.tag}' requires its own Python modules "
            f"({', '.join(model.info['external_modules'])}), which the service would run. If you "
            "trust its author, export it with --trust"
        )
    home = folder / "models" / model.tag.name
    shutil.copytree(model.path, home / str(model.tag.version), copy_function=shutil.copyfile)
    update_latest(home)
    values = {
        # BentoML's names end with a letter or digit
        "name": model.tag.name.rstrip("._-"),
        "tag": str(model.tag),
        "trust": needs_trust,
    }
    quoted = {key: yaml.safe_dump(value).splitlines()[0] for key, value in values.items()}
    texts = {
        BENTOFILE: _BENTOFILE.format(**quoted),
        "README.md": _README.format(**values),
        "requirements.txt": "".join(f"{line}\n" for line in _requirements()),
        "service.py": _service().read_text(encoding="utf-8"),
        "wheels/README.txt": _WHEELS,
    }
    (folder / "wheels").mkdir()
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def _service() -> Path:
    found = next((path for path in _SERVICES if path.is_file()), None)
    if found is None:
        raise StoreError(f"'{_SERVICES[0]}' is missing; install d2run again")
    return found


def _requirements() -> list[str]:
    versions = library_versions()
    detectron2 = versions.pop("detectron2") or "0.7.2"
    del versions["d2run"]
    wheels = {"d2run": VERSION, "detectron2": detectron2}
    return [
        *(f"./wheels/{name}-{version}-py3-none-any.whl" for name, version in wheels.items()),
        # without the local part (+cpu), which the package index does not have
        *(f"{name}=={version.partition('+')[0]}" for name, version in versions.items() if version),
    ]
