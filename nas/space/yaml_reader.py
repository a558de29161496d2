"""Reads YAML with positions: all problems of a file are reported at once, each with its line.

Files may come from strangers, so their size is bounded before anything is made of them: aliases that multiply a value
("billion laughs"), deep nesting, endless numbers. Control characters become escapes, as messages show them.
"""

from __future__ import annotations

from typing import Any, ClassVar

import yaml

from nas.errors import NasError, escaped

_MOST_CHARACTERS = 2**18
_MOST_VALUES = 50_000
_DEEPEST = 40
_LONGEST_NUMBER = 100
_LONGEST_PROBLEM = 400
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def compose_yaml(text: str, times: int = 1) -> yaml.Node | None:
    """Parse YAML to a tree whose nodes know their lines; None if it is empty.

    Args:
        text: The text.
        times: Factor of the limits: up to 256 KiB of text and 50,000 values with all aliases expanded.

    Raises:
        yaml.YAMLError: It is not YAML, or it is over a limit.
    """
    if len(text) > times * _MOST_CHARACTERS:
        raise yaml.YAMLError(f"{len(text):,} characters; at most {times * _MOST_CHARACTERS:,} are read")
    try:
        root: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    except RecursionError:
        raise yaml.YAMLError(f"nested too deeply; at most {_DEEPEST} levels are read") from None
    except ValueError as error:  # an escape such as \U0011FFFF, which is no character
        raise yaml.YAMLError(str(error)) from None
    if root is not None:
        _bound(root, times)
    return root


def load_yaml(text: str, times: int = 1) -> Any:
    """Return YAML as plain values, like `yaml.safe_load`, within the limits of `compose_yaml`.

    Raises:
        yaml.YAMLError: It is not YAML, it is over a limit, or a value cannot be read.
    """
    root = compose_yaml(text, times)
    try:
        return None if root is None else yaml.SafeLoader("").construct_object(root, deep=True)
    except _UNREADABLE as error:
        raise yaml.YAMLError(f"a value cannot be read: {error}") from None


_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, RecursionError, ArithmeticError)
"""What PyYAML raises for values that do not fit their tag, such as the date 2026-13-45."""


def _bound(root: yaml.Node, times: int) -> None:
    """Check a tree against the limits, and escape the control characters of its texts.

    Raises:
        yaml.YAMLError: It is over a limit.
    """
    sizes: dict[int, int] = {}  # by node: values below it, aliases expanded; one that is being visited counts as none
    depths: dict[int, int] = {}
    stack = [(root, False)]
    while stack:
        node, left = stack.pop()
        children = _children(node)
        line = node.start_mark.line + 1
        if left:
            sizes[id(node)] = 1 + sum(sizes[id(child)] for child in children)
            depths[id(node)] = 1 + max((depths[id(child)] for child in children), default=0)
            if sizes[id(node)] > times * _MOST_VALUES:
                raise yaml.YAMLError(f"line {line}: more than {times * _MOST_VALUES:,} values with aliases expanded")
            if depths[id(node)] > _DEEPEST:
                raise yaml.YAMLError(f"line {line}: nested too deeply; at most {_DEEPEST} levels are read")
        elif id(node) not in sizes:
            sizes[id(node)] = depths[id(node)] = 0
            stack.append((node, True))
            stack += [(child, False) for child in children]
            if isinstance(node, yaml.ScalarNode):
                if node.tag in _NUMBERS and len(node.value) > _LONGEST_NUMBER:
                    raise yaml.YAMLError(f"line {line}: a number of {len(node.value)} digits")
                node.value = escaped(node.value)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


class YamlReader:
    """Walks a composed YAML tree, whose nodes know their lines, and collects problems.

    Attributes:
        file: Name of the file, for messages.
        problems: Line and text of each problem.
    """

    error: ClassVar[type[NasError]]
    """Raised for a file with problems."""
    most_problems: ClassVar[int] = 50
    """Maximum number of reported problems."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[tuple[int, str]] = []

    def compose(self, text: str) -> yaml.Node | None:
        """Parse text, within the limits of `compose_yaml`; None if it is empty.

        Raises:
            NasError: It is not YAML.
        """
        try:
            return compose_yaml(text)
        except yaml.YAMLError as error:
            what = "not YAML" if isinstance(error, yaml.MarkedYAMLError) else "cannot be read"
            raise self.error(f"{self.file}: {what}: {self.explain(error)}") from None

    def value(self, node: yaml.Node) -> Any:
        """Return the plain value of a node; None, and a problem, where it has none."""
        try:
            return yaml.SafeLoader("").construct_object(node, deep=True)
        except (yaml.YAMLError, *_UNREADABLE) as error:
            self.problem(node, f"cannot read this value: {self.explain(error)}")
            return None

    def problem(self, node: yaml.Node | None, text: str) -> None:
        """Record a problem for each line of `text`, which is cut if it is long."""
        line = node.start_mark.line + 1 if node else 1
        for part in text.splitlines():
            self.problems.append((line, part if len(part) <= _LONGEST_PROBLEM else f"{part[:_LONGEST_PROBLEM]}…"))

    def explain(self, error: Exception) -> str:
        """Return the text of a parser's error."""
        return str(error)

    def raise_problems(self) -> None:
        """Raise the problems, if there are any, by line."""
        if self.problems:
            found = sorted(set(self.problems))[: self.most_problems]
            raise self.error("\n".join(f"{self.file}:{line}: {text}" for line, text in found))
