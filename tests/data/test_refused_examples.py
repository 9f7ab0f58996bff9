"""Examples that float32 cannot hold or tell apart, seeds and counts that are none: each says what to do."""

import numpy as np
import pytest

import genmem
from genmem.data.arrays import blurred_columns, checked_examples
from genmem.errors import DataError, ModelError

X = np.random.default_rng(0).normal(size=(40, 3))


def test_columns_that_float32_blurs_are_found():
    seconds = np.column_stack([X[:, 0] * 30 + 1.7e9, X[:, 1], np.full(40, 1e9), X[:, 2] * 1e6 + 1.7e9])
    assert blurred_columns(seconds).tolist() == [0]
    assert len(np.unique(seconds[:, 0].astype(np.float32))) < 5
    assert len(np.unique(seconds[:, 3].astype(np.float32))) == 40


@pytest.mark.parametrize("take", [genmem.load, checked_examples, genmem.VAE(epochs=1).fit, genmem.Flow(epochs=1).fit])
def test_they_are_refused(take):
    with pytest.raises(DataError, match="Subtract an offset"):
        take(X + 1e9)
    with pytest.raises(DataError, match="3.4e38"):
        take(X * 1e39)
    take(X + 1)


def test_a_table_names_the_column(tmp_path):
    rows = "\n".join(f"{1_700_000_000 + i},{i % 7}" for i in range(20))
    (tmp_path / "t.csv").write_text(f"time,size\n{rows}\n")
    with pytest.raises(DataError, match=r"1700000000 to 1700000019 in column 'time'"):
        genmem.load(tmp_path / "t.csv")


@pytest.mark.parametrize("seed", [None, -1, 1.5, True])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(ModelError, match="random_state"):
        genmem.VAE(epochs=1, random_state=seed).fit(X)


def test_counts_of_draws_and_samples():
    fitted = genmem.VAE(hidden=[4], latent_dim=1, epochs=1).fit(X)
    for draws in (0, -3, 2.5):
        with pytest.raises(ModelError, match="importance_samples"):
            fitted.score_samples(X, importance_samples=draws)
    for count in (0, -1, 2.5):
        with pytest.raises(ModelError, match="n_samples"):
            fitted.sample(count)
    with pytest.raises(DataError, match="3.4e38"):
        fitted.score_samples(X * 1e39)


@pytest.mark.parametrize("model", [genmem.KNNDensity(k=2), genmem.TorchKernelDensity(), genmem.TorchGaussianMixture()])
@pytest.mark.parametrize("count", [0, -1, 2.5])
def test_counts_of_samples_of_classical_densities(model, count):
    with pytest.raises(ModelError, match="n_samples"):
        model.fit(X).sample(count)
