"""Three arrays or one `Sets`: what functions of three sets take, and what they say of themselves."""

import inspect
import pickle

import numpy as np
import pytest
from neighbor_sets import lattice_sets, normal_sets

from genmem import neighbors
from genmem.data.arrays import identical_groups
from genmem.errors import DataError
from genmem.neighbors import Sets, data_copying_test, gan_leaks, tail_share_test
from genmem.neighbors.copycheck import copycheck
from genmem.neighbors.spaces import in_space

OF_THREE_SETS = [
    "authenticity", "calibrated_distance", "closest_record", "conformal_rows", "conformal_samples", "context",
    "copied_share", "copycheck", "data_copying_test", "distance_ratio", "gan_leaks", "neighbor_ratio",
    "one_nn_two_sample", "precision_recall", "ratio_test", "same_source_test", "scan_share_test", "tail_excess_test",
    "tail_share_test", "train_share_test",
]  # fmt: skip


@pytest.mark.parametrize("name", OF_THREE_SETS)
def test_functions_say_what_they_take(name):
    function = getattr(neighbors, name)
    first, *others = inspect.signature(function).parameters.values()
    assert [first.name, others[0].name, others[1].name] == ["train", "test", "samples"]
    assert first.default is first.empty and others[0].default is others[1].default is None
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in others[2:])
    assert "train: (n_train, *event), or a `Sets`" in function.__doc__ and "sets: " not in function.__doc__
    assert function.__name__ == name and pickle.loads(pickle.dumps(function)) is function


def test_three_arrays_three_words_or_one_object():
    sets = normal_sets(0, 60, 50, 40, copies=9)
    shared = Sets(*sets)
    by_word = dict(zip(("train", "test", "samples"), sets, strict=True))
    for found in (tail_share_test(*sets, seed=1), tail_share_test(**by_word, seed=1), tail_share_test(shared, seed=1)):
        assert found.p_value == tail_share_test(shared, seed=1).p_value
    assert data_copying_test(shared, n_cells=2).z == data_copying_test(*sets, n_cells=2).z
    assert copycheck(shared, power_trials=0).sentence == copycheck(*sets, power_trials=0).sentence
    for one, other in zip(in_space("pca:2", shared)[0], in_space("pca:2", *sets)[0], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("got", ["train", "train and test", "a Sets and test", "a Sets and test and samples"])
def test_what_is_neither_is_refused(got):
    three = dict(zip(("train", "test", "samples"), normal_sets(0, 9, 9, 9), strict=True))
    first, *others = got.split(" and ")
    with pytest.raises(DataError, match=rf"got {got}\. Pass all three"):
        gan_leaks(Sets(**three) if first == "a Sets" else three[first], **{name: three[name] for name in others})


def test_groups_are_those_of_all_rows():
    sets = Sets(*lattice_sets(0))
    expected = identical_groups(np.concatenate([*sets]))
    np.testing.assert_array_equal(np.concatenate(sets.groups), expected)
    np.testing.assert_array_equal(sets.pooled_groups, identical_groups(np.concatenate([sets.train, sets.test])))


def test_fewer_rows_than_asked_for_are_all():
    sets = Sets(*normal_sets(0, 4, 5, 6))
    assert sets.near("samples", "train", 50)[0].shape == (6, 4) and sets.near("train", "train", 50)[0].shape == (4, 3)
    np.testing.assert_array_equal(sets.near("samples", "train", 50)[0], sets.near("samples", "train", 4)[0])
