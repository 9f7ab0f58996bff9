"""Pyro model/guide pairs: the bound against Trace_ELBO, log p against quadrature and conjugacy, lanes."""

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyro
import pyro.distributions as dist
import pyro_pairs as pairs
import pytest
import torch
from contract import check_density, check_normalised
from oracles_pyro import conjugate_predictive, trace_elbo, vae_log_prob
from pyro.infer import SVI, Trace_ELBO
from scipy.stats import kstest, norm
from sklearn.base import clone

import genmem
from genmem.errors import ModelError
from genmem.models.pyro_density import from_pyro
from genmem.protocols import draw
from genmem.run import Run
from genmem.training.ensemble import Lane, train
from genmem.training.probe import can_batch

KINDS = {
    "vae": pairs.vae,
    "scaled_vae": pairs.scaled_vae,
    "mixture": pairs.mixture,
    "bare_guide": pairs.bare_guide,
    "auto_guide": pairs.auto_guide,
    "both": pairs.both,
    "fixed_total": pairs.fixed_total,
    "flow": pairs.flow,
    "transposed": pairs.transposed,
}


def data(n=60, shape=(3,), seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, *shape)) + rng.normal(size=shape)).astype(np.float32)


def density(kind, **changes):
    settings = {"epochs": 4, "batch_size": 16, "learning_rate": 0.01} | changes
    return from_pyro(KINDS[kind], **settings)


def network(kind, n=60, shape=(3,), seed=0):
    torch.manual_seed(seed)
    return density(kind).recipe(shape, n, seed=seed).make_module()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "scaled_vae"])
def test_contract(kind):
    check_density(density(kind), data())


@pytest.mark.slow
def test_contract_on_images():
    check_density(density("vae"), data(shape=(2, 2)))


def test_public_name():
    assert genmem.from_pyro is from_pyro
    model = density("vae")
    assert clone(model).get_params() == model.get_params()
    assert model.get_params()["make_pair"] is pairs.vae and model.get_params()["epochs"] == 4


# --- the bound


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1])
def test_losses_add_up_to_trace_elbo(kind, seed):
    x = torch.from_numpy(data(seed=seed))
    module = network(kind, len(x), seed=seed)
    expected = trace_elbo(module, x, seed)
    torch.manual_seed(seed)
    # A plate that stands for 1000 examples scales what it sees up to them.
    scale = pairs.TOTAL / len(x) if kind == "fixed_total" else 1
    assert scale * float(module(x).sum().detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["bare_guide", "both"])
def test_a_batch_counts_shared_latents_by_its_share(kind):
    """The batch's losses, scaled to all examples, are what Pyro's own subsampling gives."""
    x, n = torch.from_numpy(data(n=20)), 100
    module = network(kind, n)
    torch.manual_seed(5)
    losses = module(x)
    torch.manual_seed(5)
    with module.running() as (model, guide), torch.no_grad():
        guided = pyro.poutine.trace(guide).get_trace(x)
        modelled = pyro.poutine.trace(pyro.poutine.replay(model, trace=guided)).get_trace(x)

    def total(trace, names):
        sites = [trace.nodes[name] for name in names]
        return sum(site["fn"].log_prob(site["value"]).sum().detach().item() for site in sites)

    shared, local = (["shift"], ["z", "x"]) if kind == "both" else (["mean"], ["x"])
    log_p = total(modelled, shared) + n / 20 * total(modelled, local)
    log_q = total(guided, shared) + n / 20 * total(guided, [name for name in local if name != "x"])
    assert n / 20 * float(losses.sum().detach()) == pytest.approx(log_q - log_p, rel=1e-5)


@pytest.mark.parametrize("kind", ["vae", "scaled_vae", "mixture", "transposed"])
def test_each_loss_is_trace_elbo_of_one_example(kind, monkeypatch):
    # Every standard normal draw is 0.7: an example draws alone what it draws in a batch.
    monkeypatch.setattr(
        "torch.distributions.normal._standard_normal", lambda shape, dtype, device: torch.full(shape, 0.7)
    )
    x = torch.from_numpy(data(n=7))
    module = network(kind)
    expected = [trace_elbo(module, x[i : i + 1], 0) for i in range(7)]
    np.testing.assert_allclose(module(x).detach(), expected, rtol=1e-5)


def test_scales_count_in_training_only():
    plain, scaled = network("vae"), network("scaled_vae")
    x = torch.from_numpy(data(n=6))

    def seeded(call):
        torch.manual_seed(0)
        return call().detach()

    assert not torch.allclose(seeded(lambda: plain(x)), seeded(lambda: scaled(x)))
    torch.testing.assert_close(seeded(lambda: plain.log_weights(x, 9)), seeded(lambda: scaled.log_weights(x, 9)))


# --- log p and samples


@pytest.mark.slow
def test_log_p_equals_quadrature():
    X = data(n=200)
    model = density("vae", epochs=30).fit(X)
    net = model.module_.owners[0]
    np.testing.assert_allclose(model.score_samples(X[:20], 1600), vae_log_prob(net, X[:20]), atol=0.03)


@pytest.mark.slow
def test_log_p_is_the_posterior_predictive_density():
    X, new = data(n=80, shape=(2,)), data(n=50, shape=(2,), seed=1)
    model = density("bare_guide", epochs=350, batch_size=40, learning_rate=0.02).fit(X)
    mean, scale = conjugate_predictive(X, pairs.PRIOR_SCALE, pairs.SCALE)
    expected = norm.logpdf(new, mean, scale).sum(1)
    np.testing.assert_allclose(model.score_samples(new, 400), expected, rtol=0.05, atol=0.05)
    # The guide's own spread: with the shared latents counted once an example it would be 80 times too narrow.
    fitted = model.module_.state_dict()["values.:scale_of_q"].exp()
    exact = (1 / pairs.PRIOR_SCALE**2 + 80 / pairs.SCALE**2) ** -0.5
    np.testing.assert_allclose(fitted, exact, rtol=0.3)


@pytest.mark.slow
def test_shared_and_own_latents_together():
    """Given the shift, x is Gaussian: log p by quadrature over draws of the shift."""
    X = data(n=100)
    model = density("both", epochs=10).fit(X)
    with model.module_.running() as (net, guide), torch.no_grad():
        torch.manual_seed(0)
        shifts = torch.stack(
            [pyro.poutine.trace(guide).get_trace(torch.zeros(1, 3)).nodes["shift"]["value"] for _ in range(800)]
        )
        weight, bias, scale = net.decoder.weight, net.decoder.bias, net.scale
        x = torch.from_numpy(X[:10])
        given = torch.distributions.LowRankMultivariateNormal(bias + shifts[:, None], weight, scale**2).log_prob(x)
        expected = torch.logsumexp(given, 0) - np.log(800)
    np.testing.assert_allclose(model.score_samples(X[:10], 800), expected, atol=0.15)


@pytest.mark.slow
def test_densities_integrate_to_one():
    check_normalised(density("vae", epochs=20), data(shape=(1,)), points=601)
    check_normalised(density("mixture", epochs=20), data(shape=(2,)), points=901)
    check_normalised(density("bare_guide", epochs=20), data(shape=(1,)), points=601)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vae", "mixture", "flow"])
def test_samples_follow_the_density(kind):
    X = data(n=200, shape=(1,))
    model = density(kind, epochs=30).fit(X)
    grid = np.linspace(-12, 12, 2401, dtype=np.float32)[:, None]
    p = np.exp(model.score_samples(grid, 500))
    cumulative = np.cumsum(p) / p.sum()
    found = kstest(draw(model, 1500, seed=1)[:, 0], lambda v: np.interp(v, grid[:, 0], cumulative))
    assert found.pvalue > 1e-3


def test_each_sample_draws_the_shared_latents_anew():
    module = network("bare_guide", shape=(1,))
    module.values.get_parameter(":scale_of_q").data.fill_(np.log(4.0))
    torch.manual_seed(0)
    with torch.no_grad():
        samples = module.sample(300)
    assert float(samples.std()) == pytest.approx((16 + pairs.SCALE**2) ** 0.5, rel=0.15)


# --- lanes


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vae", "mixture", "bare_guide", "auto_guide", "both", "fixed_total"])
def test_lanes_equal_the_loop(kind):
    X = torch.from_numpy(data())
    recipe = density(kind).recipe((3,), 50, seed=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert can_batch(recipe, X)
    lanes = [Lane(np.arange(i, 50 + i), split=i, repeat=0) for i in range(3)]
    together, alone = (train(recipe, X, lanes, batched=batched) for batched in (True, False))
    for one, other in zip(together, alone, strict=True):
        for name, value in one.state_dict().items():
            torch.testing.assert_close(value, other.state_dict()[name], atol=2e-5, rtol=1e-4)
    first = next(iter(dict(together[0].named_parameters())))
    assert not torch.equal(together[0].state_dict()[first], together[1].state_dict()[first])


def test_what_cannot_run_in_lanes_runs_in_the_loop():
    X = torch.from_numpy(data())

    def make_pair(event_shape):
        def guide(x):
            rate = pyro.param("rate", torch.tensor(3.0), constraint=dist.constraints.positive)
            pyro.sample("precision", dist.Gamma(rate, 1.0))  # has no rule for vmap

        def model(x):
            precision = pyro.sample("precision", dist.Gamma(2.0, 1.0))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(0.0, precision.rsqrt()).expand([3]).to_event(1), obs=x)

        return model, guide

    model = from_pyro(make_pair, epochs=2, batch_size=16)
    with pytest.warns(UserWarning, match="one after another"):
        assert not can_batch(model.recipe((3,), 60, seed=0), X)
    assert np.isfinite(model.fit(X.numpy()).score_samples(X.numpy())).all()


# --- Pyro's own state


def test_pyro_is_left_as_it_was():
    store = pyro.get_param_store()
    pyro.clear_param_store()
    kept = pyro.param("mean_of_q", torch.full((3,), 9.0))
    pyro.param("scale_of_q", torch.ones(2), constraint=dist.constraints.positive)
    for validate in (True, False):
        with pyro.validation_enabled(validate):
            settings = pyro.settings.get()
            before = {name: value.detach().clone() for name, value in store.items()}
            model = density("bare_guide").fit(data())
            model.score_samples(data())
            model.sample(3)
            with pytest.raises(ModelError):
                from_pyro(lambda shape: (lambda x: 1 / 0, lambda x: None)).fit(data())
            assert pyro.settings.get() == settings
    assert list(store.keys()) == ["mean_of_q", "scale_of_q"]
    assert all(torch.equal(store[name], value) for name, value in before.items())
    assert pyro.param("mean_of_q") is kept and kept.unconstrained() is kept
    assert float(model.module_.values.get_parameter(":mean_of_q").detach().abs().max()) < 5
    pyro.clear_param_store()


def test_threads_do_not_meet():
    X = data()
    alone = [density(kind).fit(X).score_samples(X) for kind in ("vae", "bare_guide")]
    with ThreadPoolExecutor(2) as pool:
        beside = list(pool.map(lambda kind: density(kind).fit(X).score_samples(X), ("vae", "bare_guide")))
    for one, other in zip(alone, beside, strict=True):
        np.testing.assert_array_equal(one, other)


def test_agrees_with_svi_of_pyro():
    """Pyro's own loop, with the same initial values and the same draws, takes the same steps."""
    x = torch.from_numpy(data())
    module = network("mixture")
    pyro.clear_param_store()
    model, guide = pairs.mixture((3,))
    for name, value in module.values.named_parameters():
        plain = name.removeprefix(":").replace("%2E", ".")
        constraint = dist.constraints.positive if plain == "scale" else dist.constraints.real
        start = value.detach().exp() if plain == "scale" else value.detach().clone()
        pyro.param(plain, start, constraint=constraint)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    optimiser = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(10):
        svi.step(x)
        optimiser.zero_grad()
        module(x).sum().backward()
        optimiser.step()
    torch.testing.assert_close(
        module.values.get_parameter(":scale").detach().exp(), pyro.param("scale").detach(), rtol=1e-4, atol=1e-5
    )
    pyro.clear_param_store()


@pytest.mark.slow
def test_an_audit_of_a_pyro_vae(tmp_path):
    found = genmem.audit(
        "digits", density("vae", epochs=2), tmp_path / "run", subset=60, folds=2, repeats=2, importance_samples=16
    )
    assert np.isfinite(found.scores.score).all() and found.report.exists()
    assert Run.open(found.path).plan["model"]["params"]["make_pair"] == {"callable": "pyro_pairs:vae"}
