"""Parses the arguments of the store's commands."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from pipeline.errors import ConfigError, printable
from pipeline.store.command.display import OUTPUTS
from pipeline.store.exchange.outgoing import ALIASES, FORMATS


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


class _Command(_Parser):
    """Accepts options before, between and after its arguments."""

    _is_nested = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._is_nested:
            return super().parse_known_args(args, namespace)
        self._is_nested = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._is_nested = False


def make_parser(commands: Mapping[str, Callable[..., None]]) -> argparse.ArgumentParser:
    """Return the parser of all commands; each sets ``command`` to its function."""
    parser = _Parser(
        prog="python -m pipeline.store",
        description="Manage stored Detectron2 models. A TAG is name, name:latest, name:version, "
        "name:alias, or a unique prefix of a version.",
    )
    root = "directory of the store, by default $D2RUN_HOME/models"
    parser.add_argument("--root", help=root)
    parser.set_defaults(status=0)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Command)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(name, help=text, description=text)
        sub.set_defaults(command=commands[name])
        # without a default, which would override an option before the command
        sub.add_argument("--root", default=argparse.SUPPRESS, help=root)
        sub.add_argument(
            "-o",
            "--output",
            choices=OUTPUTS,
            help="output format; by default for people",
        )
        sub.add_argument("-q", "--quiet", action="store_true", help="show no warnings")
        sub.add_argument("--verbose", "--debug", action="store_true", help="show more messages")
        # scripts for BentoML can have it; d2run never tracks
        sub.add_argument("--do-not-track", action="store_true", help=argparse.SUPPRESS)
        return sub

    def add_description(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--class-names", help="a,b,c, or a file: names, COCO or metadata .json")
        sub.add_argument("--ema", action="store_true", help="use the averaged weights (ema_state)")
        sub.add_argument("-l", "--label", action="append", metavar="KEY=VALUE", default=[])
        sub.add_argument("-m", "--metadata", action="append", metavar="KEY=VALUE", default=[])

    trust = "allow the model's own Python code to run"
    sub = command("list", "List the models.")
    sub.add_argument("tag", nargs="?", metavar="NAME")
    sub.add_argument("-l", "--label", action="append", metavar="KEY=VALUE", default=[])
    sub = command("get", "Show the details of a model.")
    sub.add_argument("tag", metavar="TAG")
    sub = command("save", "Save a config with weights.")
    sub.add_argument("name", metavar="NAME[:VERSION]")
    sub.add_argument("--config", required=True, help="a YAML file, or the name of a zoo config")
    sub.add_argument("--weights", required=True, help="a file, an address, zoo, or random")
    add_description(sub)
    sub = command("delete", "Delete versions, or all versions for a bare name.")
    sub.add_argument("tag", nargs="+", metavar="TAG[,TAG...]")
    sub.add_argument(
        "-y", "--yes", "--assume-yes", action="store_true", help="do not ask for confirmation"
    )
    sub = command("export", "Write a model to a file, a directory or an address.")
    sub.add_argument("tag", metavar="TAG")
    sub.add_argument("path", nargs="?", default=".", metavar="PATH")
    formats = ", ".join((*FORMATS, *ALIASES))
    sub.add_argument("output_format", nargs="?", metavar="FORMAT", help=formats)
    sub.add_argument("--format", help="the same")
    sub.add_argument("--name", metavar="NAME[:VERSION]", help="export it under another name")
    sub.add_argument("--force", action="store_true", help="replace an existing target")
    sub.add_argument("--trust", action="store_true", help=trust)
    sub = command(
        "import", "Import an export, a BentoML model, a whole BentoML store or a training output."
    )
    sub.add_argument("path", metavar="PATH")
    sub.add_argument("--name", metavar="NAME[:VERSION]")
    sub.add_argument("--trust", action="store_true", help=trust)
    add_description(sub)
    sub = command("verify", "Verify models, by default all: files and self-test.")
    sub.add_argument("tag", nargs="*", metavar="TAG[,TAG...]")
    sub.add_argument("--selftest", action="store_true", help="always repeat the self-test")
    sub.add_argument("--device", help="repeat the self-test on this device: cpu, cuda:N")
    sub.add_argument("--trust", action="store_true", help=trust)
    command("prune", "Delete the leftovers of killed processes.")
    sub = command("provenance", "Show which run, model and input a result file comes from.")
    sub.add_argument("path", metavar="FILE", help="a file of a run directory")
    sub = command("alias", "Give a version a second name.")
    sub.add_argument("tag", metavar="TAG")
    sub.add_argument("alias", nargs="?", metavar="ALIAS")
    sub.add_argument("-d", "--delete", action="store_true", help="remove the alias name:alias")
    return parser


def parse_tags(texts: Sequence[str]) -> list[str]:
    """Return the tags in arguments that can be lists, as in ``a:v1,b:v2``.

    Raises:
        ConfigError: There are arguments, but no tags in them.
    """
    tags = " ".join(texts).replace(",", " ").split()
    if texts and not tags:
        raise ConfigError("expected a tag, as in crack_finder:v1, or tags separated by commas")
    return tags


def parse_pairs(texts: Sequence[str]) -> dict[str, str]:
    """Return ``KEY=VALUE`` arguments as a mapping."""
    for text in texts:
        if not text.partition("=")[0] or "=" not in text:
            raise ConfigError(f"expected KEY=VALUE, as in team=vision, got '{text}'")
    return dict(text.split("=", 1) for text in texts)


def parse_values(texts: Sequence[str]) -> dict[str, Any]:
    """Return ``KEY=VALUE`` arguments as a mapping, with JSON values parsed."""
    values: dict[str, Any] = dict(parse_pairs(texts))
    for key, text in values.items():
        with suppress(ValueError):  # other values stay text
            values[key] = json.loads(text)
    return values


def parse_names(text: str | None) -> list[str] | str | None:
    """Return comma-separated class names as a list; other text is the path of a file."""
    if text is None or os.path.exists(text) or "," not in text:  # noqa: PTH110 - as typed
        return text
    return [name.strip() for name in text.split(",")]
