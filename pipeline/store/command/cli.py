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

from pipeline.errors import ConfigError, ModelNotFoundError, PipelineError, StoreError, printable
from pipeline.recorded.manifest import NAME as MANIFEST
from pipeline.recorded.provenance import find_provenance
from pipeline.store.api import checks
from pipeline.store.api.model import Model
from pipeline.store.api.store import ModelStore
from pipeline.store.api.stored_model import StoredModel
from pipeline.store.command.arguments import (
    make_parser,
    parse_names,
    parse_pairs,
    parse_tags,
    parse_values,
)
from pipeline.store.command.display import format_size, make_details, make_rows, show
from pipeline.store.disk import lookup
from pipeline.store.disk.tags import Tag
from pipeline.store.exchange.foreign import UPDATES
from pipeline.store.exchange.incoming import import_path, import_store, versions_in_store
from pipeline.store.exchange.options import ImportOptions
from pipeline.store.exchange.outgoing import export_model, resolve_format
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
    logger, handler = logging.getLogger("pipeline"), logging.StreamHandler()
    handler.setFormatter(_OneLine())
    handler.setLevel(logging.ERROR if args.quiet else logging.NOTSET)
    logger.addHandler(handler)
    level = logger.level
    if args.verbose:
        logger.setLevel(logging.INFO)
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
        logger.removeHandler(handler)
        logger.setLevel(level)


def _list(store: ModelStore, args: argparse.Namespace) -> None:
    labels = parse_pairs(args.label)
    rows = make_rows(store, store.list(args.tag, labels=labels))
    if not rows and args.tag and not (labels and store.list(args.tag)):
        Tag(args.tag)
        raise ModelNotFoundError(
            args.tag, sorted({model.tag.name for model in store.list()}), str(store.root)
        )
    if not rows and args.output in (None, "table"):
        return print_stdout(f"no models{' with these labels' * bool(labels)} in {store.root}")
    return show(rows, args.output or "table")


def _get(store: ModelStore, args: argparse.Namespace) -> None:
    model = store.get(args.tag)
    if args.output in ("table", "path"):
        return show(make_rows(store, [model]), args.output)
    return show(make_details(model), args.output or "yaml")


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
    for warning in model.warnings if not args.quiet else ():
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
    if versions := versions_in_store(args.path):
        return _import_store(store, versions, options, args)
    model, is_new = import_path(store, args.path, options)
    return _report(store, model, _import_text(model, is_new), args)


def _import_store(
    store: ModelStore, versions: list[Path], options: ImportOptions, args: argparse.Namespace
) -> None:
    models = []
    for outcome in import_store(store, versions, options):
        if outcome.error is None and outcome.model is not None:
            models.append(outcome.model)
            if args.output in (None, "table"):
                text = _import_text(outcome.model, outcome.is_new)
                print_stdout(text.format(tag=outcome.model.tag, path=outcome.model.path))
        elif outcome.is_foreign:
            print_stderr(f"skipped {outcome.tag}: {outcome.error}")
        elif outcome.error is not None:
            print_stderr(f"cannot import {outcome.tag}: {outcome.error}")
            args.status = 1  # also if it is not a StoreError: the command was right
    if args.output not in (None, "table"):
        show(make_rows(store, models), args.output)
    if not models and not args.status:
        raise StoreError(f"'{args.path}' has no Detectron2 model")


def _import_text(model: StoredModel, is_new: bool) -> str:
    if not is_new:
        return "{tag} already exists in {path}; unchanged"
    updated = model.info.get("origin", {}).get(UPDATES)
    return "imported {tag} to {path}" + (f"; it updates {updated}" if updated else "")


def _export(store: ModelStore, args: argparse.Namespace) -> None:
    model = store.get(args.tag, trust=args.trust)
    if None not in (args.format, args.output_format) and args.format != args.output_format:
        raise ConfigError(f"export: two formats, '{args.output_format}' and '{args.format}'")
    format = resolve_format(args.path, args.format or args.output_format)
    path = export_model(model, args.path, format, name=args.name, overwrite=args.force)
    if args.output in (None, "table"):
        name = f" as {args.name}" if args.name else ""
        print_stdout(f"exported {model.tag}{name} to {path}")
        if format == "bentoml":
            print_stdout(f"to import it: bentoml models import {Path(path).absolute()}")
        elif format == "bento-service":
            print_stdout(f"to serve it: bentoml serve {Path(path).absolute()}")
    else:
        show([{"tag": str(model.tag), "path": path}], args.output)


def _delete(store: ModelStore, args: argparse.Namespace) -> None:
    tags = parse_tags(args.tag)
    paths = store.resolve(*tags)
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
    deleted = store.delete(*tags)
    if args.output in (None, "table"):
        for tag in deleted:
            print_stdout(f"deleted {tag}")
    else:
        pairs = zip(deleted, paths, strict=True)
        show([{"tag": str(tag), "path": str(path)} for tag, path in pairs], args.output)


def _verify(store: ModelStore, args: argparse.Namespace) -> None:
    rows = []
    bundled = ModelStore(lookup.BUNDLED)  # come with d2run
    tags = parse_tags(args.tag) or dict.fromkeys([*store.tags(), *bundled.tags()])
    for tag in tags:
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
    elif not rows:
        print_stdout(f"no models in {store.root}")


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


def _provenance(store: ModelStore, args: argparse.Namespace) -> None:
    found = find_provenance(args.path)
    if args.output == "path":
        return show([found["run"]], "path")
    show(found, "yaml" if args.output in (None, "table") else args.output)
    if found["file"][MANIFEST] == "changed":
        args.status = 1
        print_stderr(f"'{args.path}' was changed after the run; {MANIFEST} has another SHA-256")
    return None


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(f"{record.levelname.lower()}: {super().format(record)}")


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
    "provenance": _provenance,
}
