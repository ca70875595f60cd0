"""How somebody gets the parts of Darkroom that his installation lacks.

Refuses to name the distribution alone: on the public index that name is a stranger's package.
"""

from __future__ import annotations


def how_to_install(extra: str) -> str:
    """The remedy for a package that is missing, which comes with an extra of pyproject.toml."""
    return f"pip install -c constraints.txt '.[{extra}]' in the folder of Darkroom's source"
