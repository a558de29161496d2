"""The forms that a variant can be written in: a table that is cheap to import, since `nas --help` reads it.

To add a form, write a function `Emission` → `Texts` and list it in `FORMS`; ``nas emit-yaml --form`` takes its names,
help and default from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

if TYPE_CHECKING:
    from nas.emit.pretrained import Pretrained
    from nas.model.render import ModelFiles
    from nas.space.variant import Variant

Texts: TypeAlias = dict[Path, str | bytes]
"""Contents by path below the output folder."""


@dataclass(frozen=True)
class Emission:
    """A rendered variant, and the options of its forms.

    Attributes:
        variant: The variant.
        files: Its rendered files.
        ultralytics: The tree that a patch or snippet is for. None: the installed one for a patch, any for a snippet.
        weights: A checkpoint to start from; None for none.
    """

    variant: Variant
    files: ModelFiles
    ultralytics: Path | None = None
    weights: Pretrained | None = None


@dataclass(frozen=True)
class Form:
    """One form.

    Attributes:
        name: Its name for ``--form``.
        help: A few words for ``--help``.
        function: ``module:function`` that returns the `Texts` of an `Emission`; imported at first use.
        default: Whether it is written without ``--form``.
        takes_tree: Whether it can be made for the tree of ``--ultralytics``.
        holds_weights: Whether it has a copy of the weights among its own files.
    """

    name: str
    help: str
    function: str
    default: bool = False
    takes_tree: bool = False
    holds_weights: bool = False

    def texts(self, emission: Emission) -> Texts:
        """Return the form's files.

        Raises:
            OutputError: The variant cannot be written in this form.
            HostError: The tree that it is for cannot be used.
        """
        module, _, function = self.function.partition(":")
        return cast("Callable[[Emission], Texts]", getattr(import_module(module), function))(emission)


FORMS = {
    form.name: form
    for form in (
        Form("yaml", "the model YAML", "nas.emit.forms:yaml_form", default=True),
        Form("snippet", "to paste into tasks.py", "nas.emit.snippet:snippet_form", default=True, takes_tree=True),
        Form("plugin", "a script that trains with this tool", "nas.emit.forms:plugin_form", default=True),
        Form("bundle", "a folder that trains without it", "nas.emit.bundle:bundle_form", holds_weights=True),
        Form("patch", "a diff against Ultralytics", "nas.emit.patch:patch_form", takes_tree=True),
    )
}
"""Every form by name."""

DEFAULT = tuple(form.name for form in FORMS.values() if form.default)
"""Names of the forms that are written without ``--form``."""


def texts_of(
    variant: Variant,
    files: ModelFiles,
    forms: Iterable[str],
    ultralytics: Path | None = None,
    weights: Pretrained | None = None,
) -> Texts:
    """Return the files of a variant in several forms; bundles, patches and snippets for a tree are verified first.

    Args:
        variant: The variant.
        files: Its rendered files.
        forms: Names of `FORMS`.
        ultralytics: See `Emission`.
        weights: See `Emission`; they are written to the output folder unless every form has its own copy.

    Raises:
        OutputError: A variant that cannot be written in a form.
        HostError: A tree that cannot be used.
    """
    emission = Emission(variant, files, ultralytics, weights)
    chosen = [FORMS[name] for name in forms]
    texts: Texts = {}
    for form in chosen:
        texts |= form.texts(emission)
    if weights and not all(form.holds_weights for form in chosen):
        texts[Path(weights.name)] = weights.content
    return texts


def yaml_form(emission: Emission) -> Texts:
    """Return the model YAML, and the user's module files that it needs."""
    return {Path(f"{emission.files.name}.yaml"): emission.files.yaml} | own_files(emission)


def plugin_form(emission: Emission) -> Texts:
    """Return the training script, and the user's module files that it imports."""
    return {Path(f"{emission.files.name}.train.py"): emission.files.train} | own_files(emission)


def own_files(emission: Emission) -> Texts:
    """Return the files of the user's own modules that a variant uses."""
    from nas.own.files import files_of

    return {Path(file.name): file.text for file in files_of(emission.variant.modules)}
