"""Rows that belong together are left out together, from every way in which groups can be given."""

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

import genmem
from genmem.errors import DataError, RunError, RunMismatchError
from genmem.run import Run, Splits
from genmem.run.splits import joined
from genmem.stages._copies import _fold

PATIENTS = np.repeat([f"p{i}" for i in range(12)], 5)
X = np.random.default_rng(0).normal(size=(60, 3))


def plan(path, data=X, **asked):
    return genmem.stages.plan(data, GaussianMixture(2), path, **{"folds": 3, "repeats": 2, **asked})


def together(held_out, groups):
    """Whether every split holds out the whole group or nothing of it."""
    return all(len(np.unique(held_out[:, groups == group], axis=1).T) == 1 for group in np.unique(groups))


def table(path):
    rows = [
        ",".join([*map(str, row), patient, str(i % 2)])
        for i, (row, patient) in enumerate(zip(X, PATIENTS, strict=True))
    ]
    path.write_text("\n".join(["a,b,c,patient,sick", *rows]))
    return path


@pytest.mark.parametrize("design", [{}, {"together": True}, {"folds": None, "fraction": 0.5}, {"max_repeats": 4}])
def test_every_design_leaves_groups_out_together(tmp_path, design):
    run = plan(tmp_path / "run", groups=PATIENTS, **design)
    assert together(run.splits().held_out, PATIENTS)
    assert not together(plan(tmp_path / "without", **design).splits().held_out, PATIENTS)
    np.testing.assert_array_equal(Run.open(run.path).data().groups, PATIENTS)


def test_a_column_a_file_and_an_array_are_the_same_run(tmp_path):
    file, groups = table(tmp_path / "table.csv"), tmp_path / "groups.txt"
    groups.write_text("\n".join(PATIENTS))
    run = plan(tmp_path / "run", file, group_column="patient", label_column="sick")
    assert run.data().X.shape == (60, 3) and run.data().columns == ("a", "b", "c")
    assert together(run.splits().held_out, PATIENTS)
    for given in (groups, PATIENTS, PATIENTS.astype(object), PATIENTS[:, None]):
        narrow = tmp_path / "narrow.csv"
        narrow.write_text("\n".join(line.rsplit(",", 2)[0] for line in file.read_text().splitlines()))
        other = plan(tmp_path / f"run-{type(given).__name__}-{np.ndim(given)}", narrow, groups=given)
        np.testing.assert_array_equal(other.splits().held_out, run.splits().held_out)


def test_a_subset_keeps_the_groups_of_its_rows(tmp_path):
    run = plan(tmp_path / "run", groups=PATIENTS, subset=31)
    data = run.data()
    np.testing.assert_array_equal(data.groups, PATIENTS[data.index])
    assert together(run.splits().held_out, data.groups)


def test_copies_and_groups_join():
    assert joined(None, None) is None
    np.testing.assert_array_equal(joined(None, ["b", "a", "b"]), [1, 0, 1])
    found = joined(["a", "a", "b", "c", "d"], [0, 1, 1, 2, 2])  # a chain: 0-1 by the first, 1-2 by the second
    np.testing.assert_array_equal(found, [0, 0, 0, 1, 1])


def test_identical_rows_of_two_groups_are_left_out_with_both(tmp_path):
    copied = X.copy()
    copied[7] = copied[50]
    held = plan(tmp_path / "run", copied, groups=PATIENTS, together=True).splits().held_out
    both = np.isin(PATIENTS, ["p1", "p10"])
    assert len(np.unique(held[:, both], axis=1).T) == 1


def test_a_group_is_not_divided_by_what_is_left_out(tmp_path):
    labels = np.arange(60) // 20
    assert plan(tmp_path / "run", groups=PATIENTS, leave_out=labels, folds=None, repeats=1).splits().n_splits == 3
    with pytest.raises(DataError, match="group p0 with examples of 0 and of 1"):
        plan(tmp_path / "other", groups=PATIENTS, leave_out=np.arange(60) % 2, folds=None, repeats=1)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"groups": PATIENTS[:59]}, "one group for each of 60 examples"),
        ({"groups": np.where(np.arange(60) == 3, "", PATIENTS)}, "a group for every example"),
        ({"groups": np.linspace(0, 1, 60)}, "groups that are integers, booleans or text"),
        ({"groups": np.where(np.arange(60) == 3, np.nan, 1.0)}, "groups that are integers"),
        ({"groups": np.zeros(60, int)}, "3 groups or more"),
        ({"groups": PATIENTS, "folds": 13}, "13 groups or more"),
        ({"group_column": "patient"}, "pass groups of an array as `groups`"),
    ],
)
def test_what_are_no_groups_is_refused(tmp_path, asked, message):
    with pytest.raises(DataError, match=message):
        plan(tmp_path / "run", **asked)


def test_columns_that_are_not_there(tmp_path):
    file = table(tmp_path / "table.csv")
    with pytest.raises(DataError, match="--group-column"):
        plan(tmp_path / "run", file, group_column="person", label_column="sick")
    with pytest.raises(DataError, match="--label-column"):
        plan(tmp_path / "run", file, group_column="patient", label_column="ill")
    with pytest.raises(DataError, match="only one of groups .--groups. and group_column"):
        plan(tmp_path / "run", file, group_column="patient", groups=PATIENTS, label_column="sick")


def test_dates_are_groups_as_text(tmp_path):
    days = np.array([f"2020-03-{1 + i // 5:02d}" for i in range(60)])
    file = tmp_path / "table.csv"
    rows = (",".join([*map(str, row), day]) for row, day in zip(X, days, strict=True))
    file.write_text("\n".join(["a,b,c,session", *rows]))  # pyarrow reads the last column as dates
    data = plan(tmp_path / "run", file, group_column="session").data()
    np.testing.assert_array_equal(data.groups, days)
    given = days.astype("datetime64[D]")
    np.testing.assert_array_equal(plan(tmp_path / "other", groups=given).data().groups, days)
    given[3] = "NaT"
    with pytest.raises(DataError, match="groups that are integers, booleans or text"):
        plan(tmp_path / "third", groups=given)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("two.csv", "a,b\n1,2\n", "one column of groups.*Keep only the column of groups"),
        ("g.parquet", "", "groups in a .npy, .csv, .txt or IDX file.*Save one group"),
        ("missing.txt", None, "a file of groups at .*missing.txt; got nothing there. Correct the path[.]"),
        ("blank.txt", "\n".join(["", *PATIENTS[1:]]), "a group for every example"),
        ("objects.npy", PATIENTS.astype(object), "groups as an array of numbers or text.*astype.str"),
        ("damaged.npy", "?", "an undamaged .npy file"),
    ],
)
def test_files_that_hold_no_groups_are_refused_as_groups(tmp_path, name, content, message):
    if isinstance(content, str):
        (tmp_path / name).write_text(content)
    elif content is not None:
        np.save(tmp_path / name, content, allow_pickle=True)
    with pytest.raises(DataError, match=message):
        plan(tmp_path / "run", groups=tmp_path / name)


def test_a_column_of_text_may_be_the_groups(tmp_path):
    with pytest.raises(DataError, match="patient .string.*--group-column"):
        plan(tmp_path / "run", table(tmp_path / "table.csv"))


def test_identical_examples_that_join_all_groups_are_to_blame(tmp_path):
    copied = X.copy()
    copied[::5] = copied[0]  # one row of each patient
    with pytest.raises(
        DataError, match="3 sets of examples.*identical examples, or examples that share.*got 1.*Omit tog"
    ):
        plan(tmp_path / "run", copied, groups=PATIENTS, together=True)
    with pytest.raises(DataError, match="if identical examples are left out together; got 2"):
        plan(tmp_path / "run", np.repeat(X[:2], 30, axis=0), together=True)


def test_other_groups_are_another_run(tmp_path):
    run = plan(tmp_path / "run", groups=PATIENTS)
    genmem.refit(run)
    plan(tmp_path / "run", groups=PATIENTS)
    for other in (None, np.roll(PATIENTS, 1)):
        with pytest.raises(RunMismatchError, match="the groups the run was planned with"):
            plan(tmp_path / "run", groups=other)
    np.save(run.path / "data" / "groups.npy", np.roll(PATIENTS, 1))
    with pytest.raises(RunError, match="groups"):
        Run.open(run.path).data()


def test_groups_are_to_blame_in_a_run_of_an_earlier_version(tmp_path):
    run = plan(tmp_path / "run")
    del run.plan["data"]["groups_sha256"]
    run.write_json("run.json", run.plan)
    genmem.refit(Run.open(run.path))
    plan(tmp_path / "run")
    with pytest.raises(RunMismatchError, match="Expected no groups, as the run was planned without; got groups.*omit"):
        plan(tmp_path / "run", groups=PATIENTS)


def test_other_splits_of_the_same_data_are_to_blame(tmp_path):
    copied = X.copy()
    copied[7] = copied[50]
    genmem.refit(plan(tmp_path / "run", copied))
    with pytest.raises(RunMismatchError, match="the splits the run was planned with.*together"):
        plan(tmp_path / "run", copied, together=True)


def test_equal_subsets_of_groups_hold_each_out_equally_often():
    held = Splits.subsets(60, 0.7, 20, seed=1, groups=PATIENTS).held_out
    assert together(held, PATIENTS) and (held.sum(axis=0) == 6).all()


def test_repeats_that_tell_no_error_are_not_added(tmp_path):
    run = plan(tmp_path / "run", groups=np.arange(60) // 20, repeats=3, max_repeats=6)
    with pytest.warns(UserWarning, match="not known with 3 repeats.*the same groups together"):
        genmem.stages.refit(run, target_reliability=0.9)
    assert run.repeats == 3 and not run.pending()


@pytest.mark.slow
def test_samples_are_compared_with_whole_groups(tmp_path):
    labels = np.repeat(["a", "b", "c"], 20)
    run = plan(tmp_path / "run", groups=PATIENTS, labels=labels, leave_out="labels", folds=None, repeats=1)
    held_out = _fold(60, PATIENTS, run.seed)
    assert together(held_out[None], PATIENTS) and 0 < held_out.sum() < 60
    assert together(_fold(60, np.repeat([0, 1], 30), 0)[None], np.repeat([0, 1], 30))
    done = genmem.audit(
        X, GaussianMixture(2), run.path, groups=PATIENTS, labels=labels, leave_out="labels", repeats=1, copies=True
    )
    assert "a random fold of the groups" in str(done.summary["copies"])
    assert any("Tests of copies take examples as independent" in said for said in done.summary["limitations"])
