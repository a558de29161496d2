"""The list of ``nas ops``, its page on one module, and its list of the installed Ultralytics' classes."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from nas.engines import ENGINES
from nas.errors import SpaceError
from nas.fork import installed
from nas.fork.heads import is_head
from nas.fork.installed import host_version
from nas.fork.names import host_names, parameters, renamed
from nas.model.module_card import (
    HEAD_WHERE,
    WHERE,
    engines_how,
    figures_of,
    in_engines,
    in_order,
    is_shipped,
    kinds_of,
    timed_how,
    timing,
    usage,
)
from nas.ops import listing, registry
from nas.ops.registry import Entry
from nas.report.console import make_console, make_table

_EXPORT = "ONNX (any batch and image size), TorchScript and torch.export, with equal outputs; all of them"


def print_modules(module: str | None, *, as_json: bool) -> None:
    """Print the registered modules by kind of slot, or one module in full.

    Raises:
        SpaceError: There is no such module.
    """
    try:
        entries = [registry.get(module)] if module else sorted(registry.entries().values(), key=in_order)
    except ValueError as error:
        raise SpaceError(str(error)) from None
    if as_json:
        return click.echo(json.dumps([_module_json(e) for e in entries], indent=2))
    console = make_console()
    if module:
        return _print_module(entries[0])
    for kinds in dict.fromkeys(kinds_of(e) for e in entries):
        console.print(f"{kinds}", style="bold", markup=False)
        right = ("parameters", "MACs", "time")
        table = make_table("module", *right, "fuse()", "what it is", "paper", right=right)
        for e in (e for e in entries if kinds_of(e) == kinds):
            figures, timed = figures_of(e), timing(e)
            ratio = f"{timed.ratio:g} x" if timed else ""
            table.add_row(
                e.name, f"{figures.params:,}", _millions(figures.macs), ratio, figures.fuse, e.summary, e.paper
            )
        console.print(table)
        console.print()
    for line in (
        f"parameters and MACs: {WHERE}, defaults; `nas ops NAME` shows one with its arguments",
        f"of heads: {HEAD_WHERE}",
        "time: a training step on a CPU, relative to the layer it replaces (attention: to the C2f in front of it)",
        "fuse(): how many of its batch norms Ultralytics folds into convolutions",
        f"export: {_EXPORT}",
        *(f"{name}: not available, as the installed Ultralytics has no {c}" for name, c in listing.absent().items()),
    ):
        console.print(line, markup=False)
    return None


def _millions(macs: int) -> str:
    return f"{macs / 1e6:.3g} M" if macs else "0"


def _module_json(entry: Entry) -> dict[str, Any]:
    """Return everything about a module as plain values."""
    figures, timed = figures_of(entry), timing(entry)
    return {
        "name": entry.name,
        "fits": sorted(entry.kinds),
        "channels": entry.rule,
        "paper": entry.paper,
        "summary": entry.summary,
        "requires": entry.requires,
        "starts": entry.starts,
        "from_ultralytics": entry.native,
        "params": figures.params,
        "macs": figures.macs,
        "norms": figures.norms,
        "norms_folded": figures.folded,
        "time": timed and timed.ratio,
        "time_beside": timed and timed.layer,
        "exports": ["onnx", "torchscript", "torch.export"] if is_shipped(entry) else None,
        "engines": {name: asdict(one) for name, one in in_engines(entry).items()},
        "arguments": {
            a.name: {"default": a.default, "accepts": a.accepts, "help": a.help} for a in entry.args.values()
        },
    }


def _print_module(entry: Entry) -> None:
    """Print one module in full."""
    figures, timed = figures_of(entry), timing(entry)
    console, where = make_console(), HEAD_WHERE if entry.rule == "head" else WHERE
    facts = {
        "": entry.summary,
        "paper": entry.paper,
        "fits": ("after a layer: " if entry.kinds == {"attention"} else "slots of kind ") + kinds_of(entry),
        "costs": f"{figures.params:,} parameters, {_millions(figures.macs)} MACs ({where}, defaults)",
        "time": timed and f"{timed.text}: a training step on a CPU ({timed_how()})",
        "fuse()": f"{figures.fuse} of its batch norms folded" if figures.norms else "no batch norm to fold",
        "exports": _EXPORT.partition(";")[0] if is_shipped(entry) else "not tested: a module of your own",
        "from": "Ultralytics itself: needs no registration" if entry.native else "",
        "takes": "two maps: its layer's input, and a guide of its output's size" if entry.rule == "guided" else "",
        "needs": entry.requires,
        "starts": entry.starts and f"in a trained model: {entry.starts}",
    }
    console.print(entry.name, style="bold", markup=False)
    for name, text in facts.items():
        if text:
            console.print(f"{name:8}{text}" if name else text, markup=False)
    for name, one in in_engines(entry).items():
        console.print(f"{ENGINES[name].title}: {one.words} ({engines_how()[name]})", markup=False)
    if entry.args:
        console.print()
        arguments = make_table("argument", "default", "accepts", "what it does")
        for a in entry.args.values():
            arguments.add_row(a.name, str(a.default), a.accepts, a.help)
        console.print(arguments)
    if usage(entry):
        console.print(f"\n{usage(entry)}", markup=False)


def print_host(name: str | None, *, as_json: bool) -> None:
    """Print the classes that the installed Ultralytics' ``parse_model`` can look up, or one of them.

    Raises:
        SpaceError: There is no such class.
    """
    found = [_described(n) for n in host_names() if not is_head(n)]
    if name is not None:
        bare = name.removeprefix("host:")
        known = {str(row["name"]): row for row in found}
        if bare not in known:
            raise SpaceError(f"{host_version()} has no class {bare!r}{registry.did_you_mean(bare, known)}")
        found = [known[bare]]
    if as_json:
        return click.echo(json.dumps(found, indent=2))
    console = make_console()
    table = make_table("choice", "constructor", "where")
    for row in found:
        given = ["?"] if row["parameters"] is None else row["parameters"]
        table.add_row(f"host:{row['name']}", f"({', '.join(given)})", row["where"])
    console.print(table)
    console.print(
        f"\n{host_version()}: what its parse_model can look up. In a space: host:NAME takes the arguments of the layer "
        "that it replaces; {host:NAME: [channels, 3]} these, as in a model YAML; `nas space check` builds each.",
        markup=False,
    )
    if said := renamed(registry.entries()):
        console.print(said, markup=False)
    return None


def _described(name: str) -> dict[str, Any]:
    package, found = installed.package(), host_names()[name]
    where = found.where
    if package and found.file and found.node:
        where = f"{found.file.relative_to(package.folder.parent)}:{found.node.lineno}"
    return {"name": name, "parameters": parameters(name), "where": where}
