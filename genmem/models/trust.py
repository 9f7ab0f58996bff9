"""What a file or a plan may name without trust: a name from a stranger must not become code that runs."""

from collections.abc import Mapping
from typing import Any

from genmem.models.factory import BUILT_IN

MADE_FROM_YOURS = ("genmem.models.custom:ModuleDensity", "genmem.models.pyro_density:PyroDensity")
PLAIN = {"device"}  # settings that may have a colon and are never imported: cuda:0


def foreign_names(described: Mapping[str, Any]) -> list[str]:
    """Return what a described model would import that is neither genmem's nor a density of scikit-learn.

    Args:
        described: {"name": class or factory, "params": its settings}, as in run.json and in files of models.
    """
    params = described.get("params")
    named = list(params.items()) if isinstance(params, Mapping) else []
    callables = [str(value["callable"]) for _, value in named if isinstance(value, Mapping) and "callable" in value]
    texts = [value for key, value in named if isinstance(value, str) and ":" in value and key not in PLAIN]
    return [name for name in (str(described["name"]), *callables, *texts) if not _is_own(name)]


def _is_own(name: str) -> bool:
    """Return whether a file may name this without trust: a built-in class, from its module or one below."""
    module, _, kind = name.partition(":")
    listed = (path.split(":") for path in (*BUILT_IN.values(), *MADE_FROM_YOURS))
    return any(kind == own and f"{module}.".startswith(f"{home}.") for home, own in listed)
