"""The docstrings that stand under the fields of a dataclass."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap


def field_docs(schema: type) -> dict[str, str]:
    """Field name → the string literal under it, of a dataclass and those it derives from, in one line each."""
    docs: dict[str, str] = {}
    for owner in filter(dataclasses.is_dataclass, reversed(schema.__mro__)):
        try:
            source = inspect.getsource(owner)
        except OSError:  # a class made in an interactive session
            continue
        (tree,) = ast.parse(textwrap.dedent(source)).body
        assert isinstance(tree, ast.ClassDef)
        for field, below in zip(tree.body, tree.body[1:], strict=False):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    docs[name] = " ".join(text.split())
    fields = {field.name for field in dataclasses.fields(schema)}  # (a ClassVar is none)
    return {name: text for name, text in docs.items() if name in fields}
