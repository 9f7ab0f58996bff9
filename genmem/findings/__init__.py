"""What did an audit find, how certain is it, and which conditions hold? Makes findings, checks and audit.json.

Names are resolved on first use, so that conditions can be parsed without loading a model.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genmem.findings.audit_json import summarise
    from genmem.findings.conditions import Condition, parse_condition
    from genmem.findings.copies import find_copies
    from genmem.findings.influence import find_influence
    from genmem.findings.memorization import find
    from genmem.findings.records import Check, Finding

_HOMES = {
    "genmem.findings.audit_json": ("summarise",),
    "genmem.findings.conditions": ("Condition", "parse_condition"),
    "genmem.findings.copies": ("find_copies",),
    "genmem.findings.influence": ("find_influence",),
    "genmem.findings.memorization": ("find",),
    "genmem.findings.records": ("Check", "Finding"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["Check", "Condition", "Finding", "find", "find_copies", "find_influence", "parse_condition", "summarise"]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'genmem.findings' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
