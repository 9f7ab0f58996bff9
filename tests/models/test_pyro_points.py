"""A Delta in a guide: refused as a point for each example, accepted as a transformed draw or a repeated statement."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from genmem.errors import ModelError
from genmem.models.pyro_density import from_pyro

X = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)


class Pair(nn.Module):
    """A factor analysis; `draw(m, s)` is what the guide does, `twice` a deterministic site that the model has too."""

    def __init__(self, draw, twice=False):
        super().__init__()
        self.dec, self.enc, self.drop = nn.Linear(1, 3), nn.Linear(3, 2), nn.Dropout(0.5)
        self.draw, self.twice = draw, twice

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))
            if self.twice:
                pyro.sample("zz", dist.Delta(2 * z, event_dim=1))
            pyro.sample("x", dist.Normal(self.dec(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            m, s = self.drop(self.enc(x)).chunk(2, -1)
            self.draw(m, s.exp())


def normal(m, s):
    pyro.sample("z", dist.Normal(m, s).to_event(1))


def auxiliary(m):
    return pyro.sample("u", dist.Normal(torch.zeros_like(m), 1.0).to_event(1), infer={"is_auxiliary": True})


def point(m, s):
    pyro.sample("z", dist.Delta(m, event_dim=1))


def point_beside_a_draw(m, s):
    auxiliary(m)
    point(m, s)


def masked_point(m, s):
    pyro.sample("z", dist.Delta(m).to_event(1).mask(torch.ones(len(m), dtype=torch.bool)))


def transformed_point(m, s):
    double = dist.transforms.AffineTransform(0.0, 2.0)
    pyro.sample("z", dist.TransformedDistribution(dist.Delta(m), [double]).to_event(1))


def transformed_draw(m, s):
    pyro.sample("z", dist.Delta(m + s * auxiliary(m), log_density=-s.log().sum(-1), event_dim=1))


def repeated(m, s):
    z = pyro.sample("z", dist.Normal(m, s).to_event(1))
    pyro.sample("zz", dist.Delta(2 * z, event_dim=1))


def fitted(draw, **settings):
    def make_pair(shape):
        pair = Pair(draw, **settings)
        return pair.model, pair.guide

    return from_pyro(make_pair, epochs=2, learning_rate=0.01).fit(X)


@pytest.mark.parametrize("draw", [point, point_beside_a_draw, masked_point, transformed_point])
def test_points_are_refused(draw):
    with pytest.raises(ModelError, match="a Delta: one point for each example"):
        fitted(draw)


def test_a_transformed_draw_is_the_distribution_it_stands_for():
    expected, found = (fitted(draw).score_samples(X, importance_samples=64) for draw in (normal, transformed_draw))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_delta_of_both_programs_has_no_density():
    expected, found = fitted(normal), fitted(repeated, twice=True)
    np.testing.assert_allclose(found.score_samples(X), expected.score_samples(X), atol=1e-4)


def test_half_precision_pairs_are_refused_by_their_cause():
    def make_pair(shape):
        pair = Pair(normal).half()
        return pair.model, pair.guide

    with pytest.raises(ModelError, match=r"in float16.*net\.float\(\) from make_pair"):
        from_pyro(make_pair, epochs=1).fit(X)
