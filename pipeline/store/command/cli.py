"""The commands of the model store: ``python -m pipeline.store --help``.

Exit status: 0 success, 1 an error of the store or a model, 2 an error in the command, 130 Ctrl-C,
143 SIGTERM.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import ConfigError, PipelineError, printable
from pipeline.store.api import checks
from pipeline.store.api.model import Model
from pipeline.store.api.store import ModelStore
from pipeline.store.api.stored_model import StoredModel
from pipeline.store.command.arguments import (
    make_parser,
    parse_names,
    parse_pairs,
    parse_values,
)
from pipeline.store.command.display import format_size, make_rows, show
from pipeline.store.exchange.incoming import import_path
from pipeline.store.exchange.options import ImportOptions
from pipeline.store.exchange.outgoing import export_model
from pipeline.system.terminal import print_stderr, print_stdout


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, PTH123
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # keeps paths that are not UTF-8
    args = make_parser(_COMMANDS).parse_args(arguments)
    warnings.simplefilter("ignore")  # libraries warn their developers
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("warning: %(message)s"))
    logging.getLogger("pipeline").addHandler(handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that temporary files are removed
    try:
        args.command(ModelStore(args.root), args)
        sys.stdout.flush()
        return int(args.status)
    except PipelineError as exc:
        print_stderr(str(exc))
        return exc.exit_status
    except KeyboardInterrupt:
        print_stderr("interrupted; incomplete files were removed")
        return 130
    except BrokenPipeError:  # `... list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as exc:
        print_stderr(f"cannot read or write {exc.filename or 'the output'}: {exc.strerror or exc}")
        return 1
    finally:
        logging.getLogger("pipeline").removeHandler(handler)


def _list(store: ModelStore, args: argparse.Namespace) -> None:
    rows = make_rows(store, store.list(args.tag, labels=parse_pairs(args.label)))
    if not rows and args.output in (None, "table"):
        return print_stdout(
            f"no such model in {store.root}" if args.tag else f"no models in {store.root}"
        )
    return show(rows, args.output or "table")


def _get(store: ModelStore, args: argparse.Namespace) -> None:
    model = store.get(args.tag)
    if args.output in ("table", "path"):
        return show(make_rows(store, [model]), args.output)
    return show({**model.info, "path": str(model.path)}, args.output or "yaml")


def _save(store: ModelStore, args: argparse.Namespace) -> None:
    model = Model(
        args.name,
        config=args.config,
        weights=args.weights,
        class_names=parse_names(args.class_names),
        ema=args.ema,
        labels=parse_pairs(args.label),
        metadata=parse_values(args.metadata),
        store=store,
    )
    store.refuse_existing(args.name)
    model.check()
    for warning in model.warnings:
        print_stderr(f"warning: {warning}")
    _report(store, model.save(), "saved {tag} in {path}", args)


def _import(store: ModelStore, args: argparse.Namespace) -> None:
    options = ImportOptions(
        name=args.name,
        class_names=parse_names(args.class_names),
        labels=parse_pairs(args.label) or None,
        metadata=parse_values(args.metadata) or None,
        ema=args.ema,
        trust=args.trust,
    )
    model, is_new = import_path(store, args.path, options)
    message = "imported {tag} to {path}" if is_new else "{tag} already exists in {path}; unchanged"
    _report(store, model, message, args)


def _export(store: ModelStore, args: argparse.Namespace) -> None:
    model = store.get(args.tag, trust=args.trust)
    path = export_model(model, args.path, format=args.format, overwrite=args.force)
    if args.output in (None, "table"):
        print_stdout(f"exported {model.tag} to {path}")
        if args.format == "bentoml" or path.endswith(".bentomodel"):
            print_stdout(f"to import it: bentoml models import {Path(path).absolute()}")
        elif args.format == "bento-service":
            print_stdout(f"to serve it: bentoml serve {Path(path).absolute()}")
    else:
        show([{"tag": str(model.tag), "path": path}], args.output)


def _delete(store: ModelStore, args: argparse.Namespace) -> None:
    paths = store.resolve(*args.tag)
    if not args.yes:
        for path in paths:
            n_bytes = sum(file.stat().st_size for file in path.iterdir())
            print_stderr(f"{path.parent.name}:{path.name}  {format_size(n_bytes)}  {path}")
        if not sys.stdin.isatty():
            raise ConfigError("cannot ask for confirmation without a terminal; add --yes to delete")
        print("Delete permanently? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            print_stderr("nothing was deleted")
            return
    tags = store.delete(*args.tag)
    if args.output in (None, "table"):
        for tag in tags:
            print_stdout(f"deleted {tag}")
    else:
        pairs = zip(tags, paths, strict=True)
        show([{"tag": str(tag), "path": str(path)} for tag, path in pairs], args.output)


def _verify(store: ModelStore, args: argparse.Namespace) -> None:
    rows = []
    for tag in args.tag or store.tags():
        try:
            model = store.get(tag, trust=args.trust)
            result = checks.verify_model(store.root, model, device=args.device, force=args.selftest)
            rows.append(
                {"tag": str(model.tag), "ok": True, "result": result, "path": str(model.path)}
            )
        except PipelineError as exc:
            args.status = max(args.status, exc.exit_status)
            rows.append({"tag": tag, "ok": False, "result": str(exc), "path": ""})
        if args.output in (None, "table"):
            (print_stdout if rows[-1]["ok"] else print_stderr)(
                f"{rows[-1]['tag']}: {rows[-1]['result']}"
            )
    if args.output not in (None, "table"):
        show(rows, args.output)


def _prune(store: ModelStore, args: argparse.Namespace) -> None:
    rows = [{"path": str(path)} for path in store.prune()]
    if args.output in (None, "table"):
        for row in rows:
            print_stdout(f"removed {row['path']}")
        return print_stdout(f"{len(rows)} leftovers removed from {store.root}")
    return show(rows, args.output)


def _alias(store: ModelStore, args: argparse.Namespace) -> None:
    if args.delete:
        if args.alias:
            raise ConfigError("alias --delete: expected one tag, name:alias")
        store.unalias(args.tag)
        if args.output in (None, "table"):
            return print_stdout(f"removed the alias {args.tag}")
        return show([{"tag": args.tag, "path": str(store.root)}], args.output)
    if not args.alias:
        raise ConfigError("alias: expected a tag and an alias, as in crack_finder:2026 production")
    model = store.alias(args.tag, args.alias)
    name = model.info["name"]
    return _report(store, model, f"{name}:{args.alias} now names {{tag}}", args)


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def _report(store: ModelStore, model: StoredModel, text: str, args: argparse.Namespace) -> None:
    if args.output in (None, "table"):
        return print_stdout(text.format(tag=model.tag, path=model.path))
    return show(make_rows(store, [model]), args.output)


_COMMANDS = {
    "list": _list,
    "get": _get,
    "save": _save,
    "delete": _delete,
    "export": _export,
    "import": _import,
    "verify": _verify,
    "prune": _prune,
    "alias": _alias,
}
