"""Does the model repeat its training set?

Some functions share the name of the module that defines them: `genmem.neighbors.copycheck` is the function, and `from
genmem.neighbors.copycheck import CopyCheck` still imports from the module.
"""

from genmem.data.encoding import mixed_space
from genmem.data.three_sets import ThreeSets, load_three
from genmem.neighbors.copied_share import copied_share
from genmem.neighbors.copycheck import CopyCheck, copycheck
from genmem.neighbors.data_copying import Cell, CopyingTest, data_copying_test
from genmem.neighbors.flagged import calibrated_distance, conformal_rows, conformal_samples
from genmem.neighbors.membership import membership_inference
from genmem.neighbors.metrics import closest_record, context, gan_leaks, neighbor_ratio
from genmem.neighbors.power import Power, detectable_share
from genmem.neighbors.prdc import precision_recall
from genmem.neighbors.ratios import authenticity, distance_ratio, ratio_test
from genmem.neighbors.results import Flags, Result
from genmem.neighbors.scan import scan_share_test
from genmem.neighbors.sets import Sets
from genmem.neighbors.shares import tail_excess_test, tail_share_test, train_share_test
from genmem.neighbors.spaces import in_space
from genmem.neighbors.two_sample import one_nn_two_sample, same_source_test, same_spread_test
from genmem.neighbors.verdict import Evidence, decide

__all__ = [
    "Cell",
    "CopyCheck",
    "CopyingTest",
    "Evidence",
    "Flags",
    "Power",
    "Result",
    "Sets",
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
    "same_spread_test",
    "scan_share_test",
    "tail_excess_test",
    "tail_share_test",
    "train_share_test",
]
