"""Which models this user planned on this machine: a run that names the same code from the same folder is trusted."""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


def remember(described: Mapping[str, Any]) -> None:
    """Note that this user chose a model with code of their own; a state folder that cannot be written is no error."""
    with suppress(OSError):
        file = _file(described)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def is_remembered(described: Mapping[str, Any]) -> bool:
    """Return whether this user chose the same model before, with the same settings and from the same folder."""
    with suppress(OSError):
        return _file(described).is_file()
    return False


def _file(described: Mapping[str, Any]) -> Path:
    chosen = {key: described.get(key) for key in ("name", "params", "code")}
    key = json.dumps([chosen, str(Path.cwd())], sort_keys=True, default=str)
    return state_folder() / "trusted" / hashlib.sha256(key.encode()).hexdigest()


def state_folder() -> Path:
    """Return the folder of what genmem remembers of this user: under $XDG_STATE_HOME, or %LOCALAPPDATA% on Windows."""
    home = os.environ.get("XDG_STATE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(home) if home else Path.home() / ".local" / "state") / "genmem"
