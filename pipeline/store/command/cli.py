"""The commands of the model store: ``python -m pipeline.store --help``.

Exit status: 0 done, 1 the store or a model is at fault, 2 the command is, 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from pipeline.errors import ConfigError, PipelineError, printable
from pipeline.store.api import checks
from pipeline.store.command.display import OUTPUTS, rows_of, say, show, size, tell
from pipeline.store.disk.entry import StoredModel
from pipeline.store.disk.local import ModelStore
from pipeline.store.exchange.incoming import Wanted, take
from pipeline.store.exchange.outgoing import FORMATS, export_model


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command; return the exit status."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, PTH123
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # a path that is not UTF-8 stays itself
    args = _parser().parse_args(arguments)
    warnings.simplefilter("ignore")  # what libraries say to their own developers
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("warning: %(message)s"))
    logging.getLogger("pipeline").addHandler(handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what is half done is removed
    try:
        args.command(ModelStore(args.root), args)
        sys.stdout.flush()
        return int(args.status)
    except PipelineError as exc:
        say(str(exc))
        return exc.exit_status
    except KeyboardInterrupt:
        say("interrupted; nothing half done is left")
        return 130
    except BrokenPipeError:  # `... list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as exc:
        say(f"cannot read or write {exc.filename or 'the output'}: {exc.strerror or exc}")
        return 1
    finally:
        logging.getLogger("pipeline").removeHandler(handler)


def _list(store: ModelStore, args: argparse.Namespace) -> None:
    rows = rows_of(store, store.list(args.tag, labels=_pairs(args.label)))
    if not rows and args.output in (None, "table"):
        return tell(f"no such model in {store.root}" if args.tag else f"no models in {store.root}")
    return show(rows, args.output or "table")


def _get(store: ModelStore, args: argparse.Namespace) -> None:
    entry = store.get(args.tag)
    if args.output in ("table", "path"):
        return show(rows_of(store, [entry]), args.output)
    return show({**entry.info, "path": str(entry.path)}, args.output or "yaml")


def _save(store: ModelStore, args: argparse.Namespace) -> None:
    from pipeline.store.model import Model

    model = Model(
        args.name,
        config=args.config,
        weights=args.weights,
        class_names=_names(args.class_names),
        ema=args.ema,
        labels=_pairs(args.label),
        metadata=_values(args.metadata),
        store=store,
    )
    store.refuse_existing(args.name)
    model.check()
    for warning in model.warnings:
        say(f"warning: {warning}")
    _done(store, model.save(), "saved {tag} in {path}", args)


def _import(store: ModelStore, args: argparse.Namespace) -> None:
    wanted = Wanted(
        name=args.name,
        class_names=_names(args.class_names),
        labels=_pairs(args.label) or None,
        metadata=_values(args.metadata) or None,
        ema=args.ema,
        trust=args.trust,
    )
    entry, new = take(store, args.path, wanted)
    said = "imported {tag} to {path}" if new else "{tag} is there already ({path}): nothing to do"
    _done(store, entry, said, args)


def _export(store: ModelStore, args: argparse.Namespace) -> None:
    entry = store.get(args.tag, trust=args.trust)
    place = export_model(entry, args.path, format=args.format, overwrite=args.force)
    if args.output in (None, "table"):
        tell(f"exported {entry.tag} to {place}")
        if args.format == "bentoml" or place.endswith(".bentomodel"):
            tell(f"take it with: bentoml models import {Path(place).absolute()}")
    else:
        show([{"tag": str(entry.tag), "path": place}], args.output)


def _delete(store: ModelStore, args: argparse.Namespace) -> None:
    places = store.meant(*args.tag)
    if not args.yes:
        for place in places:
            n_bytes = sum(file.stat().st_size for file in place.iterdir())
            say(f"{place.parent.name}:{place.name}  {size(n_bytes)}  {place}")
        if not sys.stdin.isatty():
            raise ConfigError("delete asks before it deletes; without a terminal, say --yes")
        print("delete for good? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            say("nothing was deleted")
            return
    tags = store.delete(*args.tag)
    if args.output in (None, "table"):
        for tag in tags:
            tell(f"deleted {tag}")
    else:
        pairs = zip(tags, places, strict=True)
        show([{"tag": str(tag), "path": str(place)} for tag, place in pairs], args.output)


def _verify(store: ModelStore, args: argparse.Namespace) -> None:
    rows = []
    for tag in args.tag or store.tags():
        try:
            entry = store.get(tag, trust=args.trust)
            said = checks.verified(store, entry, device=args.device, force=args.selftest)
            rows.append(
                {"tag": str(entry.tag), "ok": True, "result": said, "path": str(entry.path)}
            )
        except PipelineError as exc:
            args.status = max(args.status, exc.exit_status)
            rows.append({"tag": tag, "ok": False, "result": str(exc), "path": ""})
        if args.output in (None, "table"):
            (tell if rows[-1]["ok"] else say)(f"{rows[-1]['tag']}: {rows[-1]['result']}")
    if args.output not in (None, "table"):
        show(rows, args.output)


def _prune(store: ModelStore, args: argparse.Namespace) -> None:
    rows = [{"path": str(path)} for path in store.prune()]
    if args.output in (None, "table"):
        for row in rows:
            tell(f"removed {row['path']}")
        return tell(f"{len(rows)} left-overs removed from {store.root}")
    return show(rows, args.output)


def _alias(store: ModelStore, args: argparse.Namespace) -> None:
    if args.delete:
        if args.alias:
            raise ConfigError("alias --delete takes one tag: name:alias")
        store.unalias(args.tag)
        if args.output in (None, "table"):
            return tell(f"removed the alias {args.tag}")
        return show([{"tag": args.tag, "path": str(store.root)}], args.output)
    if not args.alias:
        raise ConfigError("alias takes a tag and a name, as in: alias crack_finder:2026 production")
    entry = store.alias(args.tag, args.alias)
    name = entry.info["name"]
    return _done(store, entry, f"{name}:{args.alias} is {{tag}} now", args)


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


class _Command(_Parser):
    """Takes options before, between and after its arguments."""

    _within = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._within:
            return super().parse_known_args(args, namespace)
        self._within = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._within = False


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m pipeline.store",
        description="Keep Detectron2 models under tags: name, name:latest, name:version, "
        "name:alias, or a version's unique beginning.",
    )
    root = "the store's directory, by default $D2RUN_HOME/models"
    parser.add_argument("--root", help=root)
    parser.set_defaults(status=0)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Command)

    def command(name: str, function: Any, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=function)
        # only what is given, as a default would hide what comes before the command
        sub.add_argument("--root", default=argparse.SUPPRESS, help=root)
        sub.add_argument("-o", "--output", choices=OUTPUTS, help="for programs: json, yaml, path")
        return sub

    def described(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--class-names", help="a,b,c, or a file: names, COCO or metadata .json")
        sub.add_argument("--ema", action="store_true", help="take the averaged weights (ema_state)")
        sub.add_argument("-l", "--label", action="append", metavar="KEY=VALUE", default=[])
        sub.add_argument("-m", "--metadata", action="append", metavar="KEY=VALUE", default=[])

    trust = "let the model's own Python code run"
    sub = command("list", _list, "Show the models.")
    sub.add_argument("tag", nargs="?", metavar="NAME")
    sub.add_argument("-l", "--label", action="append", metavar="KEY=VALUE", default=[])
    sub = command("get", _get, "Show all that is known of a model.")
    sub.add_argument("tag", metavar="TAG")
    sub = command("save", _save, "Save a config with weights.")
    sub.add_argument("name", metavar="NAME[:VERSION]")
    sub.add_argument("--config", required=True, help="a YAML file, or a name of the model zoo")
    sub.add_argument("--weights", required=True, help="a file, an address, zoo, or random")
    described(sub)
    sub = command("delete", _delete, "Delete a version, or with a bare name all versions.")
    sub.add_argument("tag", nargs="+", metavar="TAG")
    sub.add_argument("-y", "--yes", action="store_true", help="do not ask")
    sub = command("export", _export, "Write a model to a file, a folder or an address.")
    sub.add_argument("tag", metavar="TAG")
    sub.add_argument("path", nargs="?", default=".", metavar="PATH")
    sub.add_argument("--format", choices=FORMATS)
    sub.add_argument("--force", action="store_true", help="replace what is there")
    sub.add_argument("--trust", action="store_true", help=trust)
    sub = command("import", _import, "Take in an archive, a folder, a BentoML model, a training.")
    sub.add_argument("path", metavar="PATH")
    sub.add_argument("--name", metavar="NAME[:VERSION]")
    sub.add_argument("--trust", action="store_true", help=trust)
    described(sub)
    sub = command("verify", _verify, "Compare models with what was saved; all if none is named.")
    sub.add_argument("tag", nargs="*", metavar="TAG")
    sub.add_argument("--selftest", action="store_true", help="repeat it in a known environment too")
    sub.add_argument("--device", help="repeat the self-test there: cpu, cuda:N")
    sub.add_argument("--trust", action="store_true", help=trust)
    command("prune", _prune, "Delete what processes that died have left behind.")
    sub = command("alias", _alias, "Give a version a second name.")
    sub.add_argument("tag", metavar="TAG")
    sub.add_argument("alias", nargs="?", metavar="ALIAS")
    sub.add_argument("-d", "--delete", action="store_true", help="remove the alias name:alias")
    return parser


def _pairs(texts: Sequence[str]) -> dict[str, str]:
    for text in texts:
        if not text.partition("=")[0] or "=" not in text:
            raise ConfigError(f"'{text}' must be KEY=VALUE, as in team=vision")
    return dict(text.split("=", 1) for text in texts)


def _values(texts: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = dict(_pairs(texts))
    for key, text in values.items():
        with suppress(ValueError):  # a text that is no JSON is a text
            values[key] = json.loads(text)
    return values


def _names(text: str | None) -> list[str] | str | None:
    if text is None or os.path.exists(text) or "," not in text:  # noqa: PTH110 - as typed
        return text
    return [name.strip() for name in text.split(",")]


def _done(store: ModelStore, entry: StoredModel, said: str, args: argparse.Namespace) -> None:
    if args.output in (None, "table"):
        return tell(said.format(tag=entry.tag, path=entry.path))
    return show(rows_of(store, [entry]), args.output)
