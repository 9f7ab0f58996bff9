"""Stages that were requested and failed after the refits: results/failed.json."""

from collections.abc import Mapping

from genmem.findings.records import Check
from genmem.run.directory import Run

FILE = "results/failed.json"


def failed_stages(run: Run) -> dict[str, str]:
    """Return the stages that failed when they were last requested, each with the reason."""
    found = run.read_json(FILE)
    return {str(name): str(why) for name, why in found.items()} if isinstance(found, dict) else {}


def write_failed(run: Run, failed: Mapping[str, str]) -> None:
    """Store which stages failed; nothing is written if none did, now or before."""
    if failed or failed_stages(run):
        run.write_json(FILE, dict(failed))


def succeeded(run: Run, name: str) -> None:
    """Forget an earlier failure of a stage."""
    write_failed(run, {other: why for other, why in failed_stages(run).items() if other != name})


def stages_check(failed: Mapping[str, str]) -> Check:
    """Return the check that names the stages that failed."""
    told = "; ".join(f"{name} ({why})" for name, why in failed.items())
    sentence = f"Not computed, because the stage failed: {told}. The other results do not depend on it."
    return Check("failed_stages", "Stages that failed", float(len(failed)), "stages", 0.0, False, sentence)
