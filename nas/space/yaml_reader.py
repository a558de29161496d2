"""Reads YAML with positions: all problems of a file are reported at once, each with its line."""

from __future__ import annotations

from typing import Any, ClassVar

import yaml

from nas.errors import NasError


class YamlReader:
    """Walks a composed YAML tree, whose nodes know their lines, and collects problems.

    Attributes:
        file: Name of the file, for messages.
        problems: Line and text of each problem.
    """

    error: ClassVar[type[NasError]]
    """Raised for a file with problems."""
    most_problems: ClassVar[int | None] = None
    """Maximum number of reported problems; None for all."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[tuple[int, str]] = []

    def compose(self, text: str) -> yaml.Node | None:
        """Parse text; None if it is empty.

        Raises:
            NasError: It is not YAML.
        """
        try:
            return yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.YAMLError as error:
            raise self.error(f"{self.file}: not YAML: {self.explain(error)}") from None

    def value(self, node: yaml.Node) -> Any:
        """Return the plain value of a node; None, and a problem, where it has none."""
        try:
            return yaml.SafeLoader("").construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            self.problem(node, f"cannot read this value: {self.explain(error)}")
            return None

    def problem(self, node: yaml.Node | None, text: str) -> None:
        """Record a problem for each line of `text`."""
        line = node.start_mark.line + 1 if node else 1
        self.problems += [(line, part) for part in text.splitlines()]

    def explain(self, error: Exception) -> str:
        """Return the text of a parser's error."""
        return str(error)

    def raise_problems(self) -> None:
        """Raise the problems, if there are any, by line."""
        if self.problems:
            found = sorted(set(self.problems))[: self.most_problems]
            raise self.error("\n".join(f"{self.file}:{line}: {text}" for line, text in found))
