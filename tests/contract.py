"""What every density must do; `check_density(model, X)` raises AssertionError with the first thing it does not."""

import numpy as np
from sklearn.base import clone

from genmem.protocols import Density, draw


def check_density(model, X, *, tolerance=1e-5):
    """Check a density on X, (n, *event): shapes, seeds, freshness of clones, independence of batching."""
    assert isinstance(model, Density)
    fitted = clone(model).fit(X)
    log_p = np.asarray(fitted.score_samples(X))
    assert log_p.shape == (len(X),) and np.isfinite(log_p).all()

    np.testing.assert_allclose(fitted.score_samples(X), log_p, err_msg="scoring twice")
    np.testing.assert_allclose(fitted.score_samples(X[:7]), log_p[:7], atol=tolerance, err_msg="batch size")
    np.testing.assert_allclose(clone(model).fit(X).score_samples(X), log_p, atol=tolerance, err_msg="fitting twice")

    before = clone(fitted).get_params()
    assert before == model.get_params(), "clone keeps the parameters verbatim"
    assert not [name for name in vars(clone(fitted)) if name.endswith("_")], "a clone has learned nothing"

    samples = draw(fitted, 9, seed=3)
    assert samples.shape == (9, *X.shape[1:]) and np.isfinite(samples).all()
    np.testing.assert_array_equal(samples, draw(fitted, 9, seed=3), err_msg="same seed")
    assert not np.array_equal(samples, draw(fitted, 9, seed=4)), "another seed"

    refitted = clone(model).fit(X[: len(X) // 2])
    refitted.score_samples(X)
    np.testing.assert_allclose(fitted.score_samples(X), log_p, err_msg="another fit changed this one")
    return fitted
