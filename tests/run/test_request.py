"""The line of Python that repeats what was asked."""

from pathlib import Path

import numpy as np
from sklearn.neighbors import KernelDensity

from genmem import audit
from genmem.run.request import python_line
from genmem.stages import check_copies


def test_a_line_calls_the_function_as_users_name_it():
    assert python_line(audit, {"data": "digits"}) == "genmem.audit('digits')"
    sets = {"train": Path("a.npy"), "test": np.zeros((9, 2)), "samples": "c.npy"}
    assert python_line(check_copies, sets) == "genmem.stages.check_copies('a.npy', test, 'c.npy')"


def test_what_is_at_its_default_is_left_out_and_the_order_is_kept():
    asked = {"subset": 9, "data": "x.npy", "folds": None, "seed": 0, "copies": False, "model": "kde", "repeats": 8}
    assert python_line(audit, asked) == "genmem.audit('x.npy', subset=9, model='kde')"


def test_what_a_line_cannot_hold_is_given_by_name():
    asked = {"data": np.zeros((9, 2)), "model": KernelDensity(bandwidth=0.8), "labels": [np.zeros(3)]}
    asked |= {"settings": {"hidden": [8]}, "score_epochs": [1, 5], "leave_out": np.arange(9)}
    line = "genmem.audit(X, model=KernelDensity(bandwidth=0.8), labels=labels, settings={'hidden': [8]}, "
    assert python_line(audit, asked) == line + "score_epochs=[1, 5], leave_out=leave_out)"
