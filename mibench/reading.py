"""Values that a Python file assigns, read from its text: nothing in it is run or imported.

Methods and protocols say who they are in class attributes and in calls with literal arguments.
Reading these takes milliseconds, where importing torch, timm and Opacus takes seconds.
"""

from __future__ import annotations

import ast
from collections import ChainMap
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class UnreadableError(Exception):
    """The text does not say the value outright: it has to be imported."""


@dataclass(frozen=True)
class Call:
    """A call as it is written, ``AttackCard(title="…")``; it is not made.

    Attributes:
        name: what is called, without the module before it.
        arguments: those without a name.
        keywords: those with a name.
        whole: whether the names of all are known (of ``**settings`` they may not be).
    """

    name: str
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)
    whole: bool = True

    def get(self, name: str, *default: Any) -> Any:
        """A named argument, or the default where it was not given.

        Raises:
            UnreadableError: it is, or may have been, given as more than a literal.
        """
        if name not in self.keywords and self.whole and default:
            return default[0]
        return known(self.keywords.get(name, _UNKNOWN))


@dataclass(frozen=True)
class Class:
    """A class statement: its bases, its decorators and its attributes."""

    bases: tuple[str, ...]
    decorators: tuple[Any, ...]
    attributes: Mapping[str, Any]

    def get(self, name: str, *default: Any) -> Any:
        """An attribute, or the default where the statement has none; as :meth:`Call.get`."""
        if name not in self.attributes and default:
            return default[0]
        return known(self.attributes.get(name, _UNKNOWN))


_UNKNOWN: Any = object()


def known(value: Any) -> Any:
    """The value, unless it or a part of it could not be read.

    Raises:
        UnreadableError: it could not.
    """
    if value is _UNKNOWN or isinstance(value, Call | Class):
        raise UnreadableError
    if isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            known(part)
    return value


def read_module(path: Path) -> dict[str, Any]:
    """What a file defines at its top level, by name.

    A function stands for what its last line returns, called without arguments.

    Raises:
        UnreadableError: there is no such file, or it is no Python.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UnreadableError from error
    names: dict[str, Any] = {}
    _define(tree.body, names)
    return names


def _define(body: list[ast.stmt], names: MutableMapping[str, Any]) -> None:
    for statement in body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                names[name] = _value(value, names)
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                names[name] = _value(value, names)
            case ast.FunctionDef(name=name, body=[*_, ast.Return(value=ast.expr() as value)]):
                names[name] = _value(value, names)
            case ast.ClassDef(name=name):
                inside = ChainMap[str, Any]({}, names)
                _define(statement.body, inside)
                # Attack["Mine.Config"] is the class Attack.
                plain = (b.value if isinstance(b, ast.Subscript) else b for b in statement.bases)
                bases = tuple(map(ast.unparse, plain))
                decorators = tuple(_value(each, names) for each in statement.decorator_list)
                names[name] = Class(bases, decorators, inside.maps[0])


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return names.get(name, _UNKNOWN)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.Tuple(elts=parts):
            return tuple(_value(part, names) for part in parts)
        case ast.List(elts=parts):
            return [_value(part, names) for part in parts]
        case ast.Dict(keys=keys, values=values):
            result: dict[str, Any] = {}
            for key, part in zip(keys, values, strict=True):
                found = _value(part, names)
                if key is not None:
                    found = {_value(key, names): found}
                if not isinstance(found, dict) or not all(isinstance(k, str) for k in found):
                    return _UNKNOWN
                result |= found
            return result
        case ast.Call(
            func=ast.Name(id=name) | ast.Attribute(attr=name), args=parts, keywords=keywords
        ):
            held: dict[str, Any] = {}
            whole = True
            for each in keywords:
                given = _value(each.value, names)
                if each.arg is not None:  # nothing may give it again, so it holds
                    held[each.arg] = given
                elif isinstance(given, dict):
                    held |= given
                else:
                    whole = False
            return Call(name, tuple(_value(part, names) for part in parts), held, whole)
    return _UNKNOWN
