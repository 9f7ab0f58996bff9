"""Findings and checks from dataclasses to JSON and back."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from fake_run import fake_audit, fake_scores

from genmem.findings.records import Check, Correlation, Finding, from_json, to_json
from genmem.regions import Group, group_scores


@pytest.mark.parametrize("repeats", [1, 8])
def test_what_is_read_is_written_again(repeats):
    rng = np.random.default_rng(0)
    audit = fake_audit(np.zeros((30, 2)), np.arange(30), None, fake_scores(rng, 30, repeats), repeats, "")
    for kind, key in ((Finding, "findings"), (Check, "checks"), (Group, "groups")):
        assert [to_json(from_json(kind, one)) for one in audit[key]] == audit[key]


def test_numbers_come_back_as_they_were():
    group = group_scores([[1.0, 2.0, 6.0], [3.0, 1.0, 9.0]], ["a", "a", "b"])[0]
    text = json.dumps({"kind": "label", **to_json(group)}, allow_nan=False)
    np.testing.assert_equal(asdict(from_json(Group, json.loads(text))), {**asdict(group), "kind": "label"})
    assert group.n == 1 and math.isnan(group.standard_error) and '"standard_error": null, "interval": null' in text


def test_arrays_and_scalars_of_numpy_become_plain():
    found = Check("noise", "Noise", np.float32(0.5), "", np.float64(np.inf), np.bool_(True), "It is.")
    plain = to_json(found)
    assert plain["value"] == 0.5 and plain["null"] is None and plain["ok"] is True
    assert to_json({"a": (1, 2), "b": [np.arange(2), math.nan], "c": (0.0, math.inf)}) == {
        "a": [1, 2], "b": [[0, 1], None], "c": None,
    }  # fmt: skip


def test_what_older_files_lack_is_undefined_and_what_newer_ones_add_is_dropped():
    found = from_json(Correlation, {"of": "loss", "rho": 0.5, "n": 3, "interval": None, "kendall": 0.4})
    assert math.isnan(found.score_rho) and np.isnan(found.interval).all() and found.n == 3
