"""Shows Sphinx roles in docstrings, such as ``:class:`Episode``` , as code."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|exc):`~?([^`]+)`")


class Roles(griffe.Extension):
    """Rewrites docstrings before they are parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Drop the roles of one object's docstring, and the modules before the names."""
        if obj.docstring:
            obj.docstring.value = ROLE.sub(lambda match: f"`{match[1]}`", obj.docstring.value)
