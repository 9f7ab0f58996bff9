"""What does it look like? Plotly figures of an audit, for notebooks and the report.

Scores and log-probabilities are in nats. Colours are those of Okabe and Ito, legible to colour-blind readers;
backgrounds are transparent and greys neutral, so that a figure fits a light or a dark page. Text from the data is
escaped, because plotly interprets tags.

References: Color Universal Design (Okabe & Ito, 2008), https://jfly.uni-koeln.de/color/
"""

from genmem.plots.comparison import score_against_score
from genmem.plots.look import Floats
from genmem.plots.regions import region_map
from genmem.plots.scores import (
    FLAGGED,
    POINTS,
    SVG_POINTS,
    TOP,
    drawn,
    highest,
    memorized_by_log_prob,
    score_against_distance,
    score_against_log_prob,
    score_distribution,
    self_influence_against_score,
)
from genmem.plots.training import group_intervals, trajectory
from genmem.regions import Group

__all__ = [
    "FLAGGED",
    "POINTS",
    "SVG_POINTS",
    "TOP",
    "Floats",
    "Group",
    "drawn",
    "group_intervals",
    "highest",
    "memorized_by_log_prob",
    "region_map",
    "score_against_distance",
    "score_against_log_prob",
    "score_against_score",
    "score_distribution",
    "self_influence_against_score",
    "trajectory",
]
