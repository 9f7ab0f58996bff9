"""How pages are made from templates: one environment, which escapes everything that is not markup of its own."""

from jinja2 import Environment, PackageLoader, StrictUndefined

from genmem.report import attribution, words
from genmem.report.verdicts import strip

FILTERS = ("number", "fixed", "probability", "interval", "duration", "plain", "design")


def environment() -> Environment:
    """Return the environment of the templates beside this file; a name that is not defined is an error."""
    found = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=PackageLoader("genmem", "report"),
    )
    found.filters |= {name: getattr(words, name) for name in FILTERS}
    found.filters["influence"] = attribution.influence_score
    found.globals["strip"] = strip
    return found
