"""What should a reader decide, and on what evidence? Writes one offline HTML page from the results of a run."""

from genmem.report.build import write_report

__all__ = ["write_report"]
