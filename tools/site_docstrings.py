"""An extension of griffe: references of docstrings, as :func:`name`, become links of the site."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`(~?)([\w.]+)`")
_CODE = re.compile(r"``([^`]+)``")


class Roles(griffe.Extension):
    """Rewrites the docstring of every object that is loaded."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """References that lead to no page stay names in the font of code."""
        if obj.docstring is None:
            return

        def link(found: re.Match[str]) -> str:
            short, name = found.groups()
            try:
                place = obj.resolve(name)
            except griffe.NameResolutionError:
                place = name
            shown = name.rpartition(".")[2] if short else name
            return f'<autoref identifier="{place}" optional>`{shown}`</autoref>'

        text = _ROLE.sub(link, obj.docstring.value)
        obj.docstring.value = _CODE.sub(r"`\1`", text)
