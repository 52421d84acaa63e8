"""The frame of every HTML page that tunelab writes: one file, nothing from elsewhere, no text that acts.

A page's policy forbids whatever it does not name: scripts run only where a page carries one of our own, by its hash.
What data and models wrote is escaped: by jinja as HTML, and before that as what would act on a page or hide in it
(control characters, marks of direction).
"""

import base64
import hashlib
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tunelab.escaping import printable, shorten


def page_environment(package: str, max_characters: int) -> Environment:
    """The templates in `html` of `package`, on top of the common ones; a text is cut to `max_characters`."""

    def finalize(value: Any) -> Any:
        """What every expression of a template goes through before it is escaped."""
        if isinstance(value, str) and not isinstance(value, Markup):
            return printable(shorten(value, max_characters), keep="\n")
        return value

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "html"), PackageLoader("tunelab", "html")]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {"count": "{:,}".format, "share": "{:.1%}".format}
    environment.filters.update(filters)
    return environment


def script(source: str) -> tuple[Markup, Markup]:
    """A script of our own as an element, and what the page's policy says so that it, and no other, may run."""
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    return Markup("<script>{}</script>").format(Markup(source)), Markup(f"script-src 'sha256-{digest}'")
