"""Does the model repeat its training set?

Some functions are called as the module that holds them: `genmem.neighbors.copycheck` is the function, and `from
genmem.neighbors.copycheck import CopyCheck` still reads the module.
"""

from genmem.neighbors.authenticity import authenticity
from genmem.neighbors.calibrated import calibrated_distance
from genmem.neighbors.conformal import conformal_rows, conformal_samples
from genmem.neighbors.context import context
from genmem.neighbors.copied import copied_share
from genmem.neighbors.copycheck import CopyCheck, copycheck
from genmem.neighbors.copying import Cell, CopyingTest, data_copying_test
from genmem.neighbors.distances import closest_record, neighbor_ratio
from genmem.neighbors.leaks import gan_leaks
from genmem.neighbors.loading import ThreeSets, load_three
from genmem.neighbors.manifolds import precision_recall
from genmem.neighbors.membership import membership_inference
from genmem.neighbors.power import Power, detectable_share
from genmem.neighbors.ratios import distance_ratio, ratio_test
from genmem.neighbors.results import Flags, Result
from genmem.neighbors.scan import scan_share_test
from genmem.neighbors.searches import Searches
from genmem.neighbors.shares import tail_excess_test, tail_share_test, train_share_test
from genmem.neighbors.source import same_source_test
from genmem.neighbors.spaces import in_space
from genmem.neighbors.tabular import mixed_space
from genmem.neighbors.two_sample import one_nn_two_sample
from genmem.neighbors.verdict import Evidence, decide

__all__ = [
    "Cell",
    "CopyCheck",
    "CopyingTest",
    "Evidence",
    "Flags",
    "Power",
    "Result",
    "Searches",
    "ThreeSets",
    "authenticity",
    "calibrated_distance",
    "closest_record",
    "conformal_rows",
    "conformal_samples",
    "context",
    "copied_share",
    "copycheck",
    "data_copying_test",
    "decide",
    "detectable_share",
    "distance_ratio",
    "gan_leaks",
    "in_space",
    "load_three",
    "membership_inference",
    "mixed_space",
    "neighbor_ratio",
    "one_nn_two_sample",
    "precision_recall",
    "ratio_test",
    "same_source_test",
    "scan_share_test",
    "tail_excess_test",
    "tail_share_test",
    "train_share_test",
]
