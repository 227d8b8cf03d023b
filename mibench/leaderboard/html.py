"""How pages are made: templates whose texts are escaped, and what a browser may do with a page."""

from __future__ import annotations

import base64
import functools
import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment


@functools.lru_cache(maxsize=2)  # templates are compiled once
def environment(*packages: str) -> Environment:
    """The templates of some packages, of which the first has precedence, and of the boards' page.

    Every text that a template is given is escaped; a name that it is not given is an error.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in (*packages, "mibench.leaderboard")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.policies["json.dumps_kwargs"] = {"sort_keys": True, "separators": (",", ":")}
    return made


def policy(script: str, pictures: str) -> str:
    """The content security policy: the page's own script by its hash, pictures, and no network.

    Args:
        script: the page's one script.
        pictures: where pictures come from, as the policy says it: ``"data:"``.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        f"img-src {pictures}; base-uri 'none'; form-action 'none'"
    )
