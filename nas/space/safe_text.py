"""What texts of model YAMLs, studies and spaces may be, before a template, a file name or Ultralytics sees them.

Ultralytics evaluates texts of a model YAML: `eval` of ``activation:``, `ast.literal_eval` of row arguments, `getattr`
and `globals` for module names; forks evaluate more. So texts go through lists of what is allowed. Nothing here
evaluates anything: expressions are parsed with `ast` and compared.
"""

from __future__ import annotations

import ast
import re
from functools import lru_cache

from nas.errors import SpaceError, shown

ACTIVATIONS = frozenset(
    {
        "CELU", "ELU", "GELU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "Identity", "LeakyReLU",
        "LogSigmoid", "Mish", "PReLU", "RReLU", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softplus", "Softshrink",
        "Softsign", "Tanh", "Tanhshrink", "Threshold",
    }
)  # fmt: skip
"""Classes of torch.nn that ``activation:`` may construct."""
_LARGEST = 10_000
_LONGEST_TEXT = 200
_DEEPEST = 4

_MODULE = re.compile(r"(nn\.|torch\.nn\.|torchvision\.ops\.)?[A-Za-z_]\w*", re.ASCII)
_WORDS = re.compile(r"[\w.\-+ ]*")
_FILE = re.compile(r"\.(pt|pth|pkl|pickle|bin|npy|npz|py|ya?ml|json|onnx|safetensors)$", re.IGNORECASE)
_BASE = re.compile(r"[A-Za-z0-9_][\w.+@-]{0,99}", re.ASCII)
_SCALE = re.compile(r"[A-Za-z0-9]{0,8}", re.ASCII)
_SLOT = re.compile(r"[\w.+*?\[\]!\- ]{1,200}", re.ASCII)
_LABEL = re.compile(r"[A-Za-z_][\w.:]{0,99}(\([\w.=,:+\-\[\]() ]{0,300}\))?", re.ASCII)


def activation_problem(text: str) -> str:
    """Return why a text cannot stand under ``activation:``; empty if it can, such as ``nn.LeakyReLU(0.1)``."""
    expected = "expected one of torch.nn with plain numbers, such as nn.SiLU() or nn.LeakyReLU(0.1)"
    wrong = f"{shown(text)} is no activation that may be evaluated; {expected}"
    call = _parsed(text)
    if not isinstance(call, ast.Call):
        return wrong
    module, _, name = ast.unparse(call.func).rpartition(".")
    if module not in ("nn", "torch.nn") or name not in ACTIVATIONS:
        return wrong
    values = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg)]
    if len(values) < len(call.args) + len(call.keywords) or len(values) > _DEEPEST:
        return wrong
    return "" if all(_is_plain(value, texts=("none", "tanh")) for value in values) else wrong


def argument_problem(text: str) -> str:
    """Return why a text cannot be an argument of a row; empty for words, plain literals and activations."""
    if len(text) > _LONGEST_TEXT:
        return f"the text {shown(text)} has {len(text):,} characters; at most {_LONGEST_TEXT} are read"
    if _FILE.search(text):
        return f"the text {shown(text)} names a file, which a module of a model YAML may not read"
    if _WORDS.fullmatch(text) or not activation_problem(text):
        return ""
    value = _parsed(text)
    if value is not None and _is_literal(value):
        return ""
    return f"the text {shown(text)} could be evaluated; expected words, numbers, or lists of numbers"


def module_problem(name: str) -> str:
    """Return why a text cannot be the module of a row; empty if it can."""
    if _MODULE.fullmatch(name) and "__" not in name and len(name) < _LONGEST_TEXT:
        return ""
    return f"module {shown(name)}; expected a class's name, such as Conv or nn.Upsample"


def check_variant_text(base: str, scale: str, swaps: tuple[tuple[str, str], ...]) -> None:
    """Check the texts of a variant, which go into file names, comments and scripts.

    Raises:
        SpaceError: One has a character that no name has.
    """
    for what, text, pattern in (("base", base, _BASE), ("scale", scale, _SCALE)):
        if not _is_name(text, pattern):
            raise SpaceError(f"{what} {shown(text)}: expected letters, digits, dots and dashes")
    for pair in swaps:
        if not (isinstance(pair, tuple) and len(pair) == 2 and _is_name(pair[0], _SLOT) and _is_name(pair[1], _LABEL)):
            raise SpaceError(f"swap {shown(pair)}: expected a slot and a choice, such as neck.up_p4 and CARAFE(k_up=7)")


def _is_name(text: object, pattern: re.Pattern[str]) -> bool:
    return isinstance(text, str) and _matches(text, pattern)


@lru_cache(maxsize=4096)
def _matches(text: str, pattern: re.Pattern[str]) -> bool:
    return pattern.fullmatch(text) is not None and ".." not in text


def _parsed(text: str) -> ast.expr | None:
    """Return a text as an expression; None if it is none, or could be large."""
    if len(text) > _LONGEST_TEXT:
        return None
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _is_plain(node: ast.expr, texts: tuple[str, ...]) -> bool:
    """Return whether an expression is a truth value, a number of a usual size, or one of some texts."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        node = node.operand
    if not isinstance(node, ast.Constant):
        return False
    value = node.value
    return value in texts if isinstance(value, str) else isinstance(value, int | float) and abs(value) <= _LARGEST


def _is_literal(node: ast.expr, depth: int = 0) -> bool:
    """Return whether an expression is None, a truth value, a number, a text of words, or a list of these."""
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return depth < _DEEPEST and all(_is_literal(part, depth + 1) for part in node.elts)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _WORDS.fullmatch(node.value) is not None
    return (isinstance(node, ast.Constant) and node.value is None) or _is_plain(node, ())
