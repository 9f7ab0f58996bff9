"""The page of a copy check on its own: one offline file without any script."""

from pathlib import Path

from genmem.report.copies import CopyResults, copies
from genmem.report.pages import environment


def render_copies(results: CopyResults) -> str:
    """Return the page. A pure function of the results."""
    source = str(results.about["asked"]["samples"])
    title = Path(source).name or source
    template = environment().get_template("copycheck.html")
    return template.render(about=results.about, c=copies(results), title=title)
