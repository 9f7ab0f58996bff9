"""Posteriors fitted to each example: against quadrature and the exact Gaussian; the driver; what is done when."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from oracles import gaussian_vae_log_prob_by_grid, linear_posterior
from sklearn.neighbors import KernelDensity
from torch import nn

from genmem.data import load
from genmem.errors import DataError, IncompleteRunError, ModelError, RunError
from genmem.leaveout import encoder_bias, refit
from genmem.leaveout import posterior as driver
from genmem.leaveout.encoder_bias import correct_encoder
from genmem.leaveout.posterior import posterior_log_probs, read_posteriors, refit_posteriors
from genmem.models import VAE, log_prob
from genmem.models import posterior as numerics
from genmem.models.posterior import refit_posterior
from genmem.run import Run, Splits

# --- the fit


def network(latent, hidden=(12,), size=5, seed=0, scale=1.5, likelihood="gaussian", log_variance=-1.0):
    """Return a VAE in float64 whose encoder has nothing to do with its decoder."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = VAE(hidden=hidden, latent_dim=latent, likelihood=likelihood).make_module((size,)).double()
        for p in module.decoder.parameters():
            p.data = scale * torch.randn_like(p) / np.sqrt(p.shape[-1])
        if likelihood == "gaussian":
            module.log_variance.data.fill_(log_variance)
    return module.eval()


def drawn_from(module, n, seed=1):
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        return module.sample(n) if next(module.parameters()).dtype == torch.float32 else _sample_double(module, n)


def _sample_double(module, n):
    output = module.decoder(torch.randn(n, *module.noise_shape, dtype=torch.float64))
    return output + (0.5 * module.log_variance).exp() * torch.randn_like(output)


@pytest.mark.parametrize("latent", [pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_log_p_agrees_with_quadrature_where_the_encoder_misleads(latent):
    module = network(latent, scale=1.0, log_variance=0.0)
    module.encoder[-1].bias.data[:latent] += 3
    x = drawn_from(module, 40)
    exact = gaussian_vae_log_prob_by_grid(module, x)
    refitted, amortised = (refit_posterior(module, x, steps=n, draws=64, seed=0) for n in (numerics.STEPS, 0))
    assert refitted.mean.dtype == np.float64
    assert np.abs(refitted.log_prob - exact).mean() < 0.1
    assert (amortised.log_prob - exact).mean() < -1
    many = refit_posterior(module, x, draws=4096, seed=0)
    np.testing.assert_allclose(many.log_prob, exact, atol=0.1)
    assert np.abs(many.log_prob - exact).mean() < 0.02


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_the_refitted_bound_is_no_lower(likelihood):
    module = network(3, likelihood=likelihood)
    x = (torch.rand(60, 5, generator=torch.Generator().manual_seed(2)) < 0.5).double()
    bounds = []
    for steps in (0, numerics.STEPS):
        found = refit_posterior(module, x, steps=steps, draws=1, seed=0)
        q = torch.from_numpy(found.mean), torch.from_numpy(found.log_variance)
        noise = torch.randn(4000, 60, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        with torch.no_grad():
            bounds.append(module.log_weights(x, 4000, noise=noise, posterior=q).mean(0).numpy())
    assert (bounds[1] > bounds[0] - 0.1).all()
    assert (bounds[1] - bounds[0]).mean() > 0.5


@pytest.mark.slow
def test_a_linear_decoder_has_its_exact_gaussian_posterior():
    module = network(3, hidden=(), scale=0.7)
    x = drawn_from(module, 30)
    mean, precision = linear_posterior(module, x)
    found = refit_posterior(module, x, steps=1000, seed=0)
    sd = np.diag(precision) ** -0.5  # of the diagonal Gaussian that maximises the bound
    np.testing.assert_allclose(found.mean, mean, atol=1e-6)
    np.testing.assert_allclose(found.log_variance, np.broadcast_to(2 * np.log(sd), mean.shape), atol=0.15)


def test_where_a_diagonal_gaussian_is_exact_nothing_is_noisy():
    module = network(2, hidden=())
    with torch.no_grad():
        module.decoder[0].weight.copy_(torch.linalg.qr(module.decoder[0].weight)[0])
    x = drawn_from(module, 20)
    mean, precision = linear_posterior(module, x)
    found = refit_posterior(module, x, steps=200, draws=4, seed=0)
    np.testing.assert_allclose(found.mean, mean, atol=1e-6)
    np.testing.assert_allclose(np.exp(-found.log_variance), np.broadcast_to(np.diag(precision), mean.shape), rtol=1e-6)
    np.testing.assert_allclose(found.effective_draws, 4, rtol=1e-6)
    np.testing.assert_allclose(found.log_prob, gaussian_vae_log_prob_by_grid(module, x), atol=1e-6)


def test_without_steps_it_is_what_the_encoder_gives():
    module = VAE(hidden=[8], latent_dim=3).make_module((5,))
    x = torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
    ours, theirs = (
        refit_posterior(module, x, steps=0, draws=40, seed=5, keys=(2,)),
        log_prob(module, x, draws=40, seed=5, keys=(2,)),
    )
    np.testing.assert_allclose(ours.log_prob, theirs.log_prob, atol=1e-5)
    np.testing.assert_allclose(ours.variance, theirs.variance, atol=1e-5)


def test_an_example_is_refitted_the_same_whatever_is_refitted_with_it(monkeypatch):
    module = network(2)
    x = drawn_from(module, 260)
    whole = refit_posterior(module, x, steps=18, draws=18, seed=0, keys=(1,))
    rows = np.array([259, 3, 128, 127, 17])
    some = refit_posterior(module, x[rows], steps=18, draws=18, seed=0, keys=(1,), rows=rows)
    monkeypatch.setitem(numerics.EXAMPLES_AT_ONCE, "cpu", 50)
    in_parts = refit_posterior(module, x, steps=18, draws=18, seed=0, keys=(1,))
    for name in ("log_prob", "effective_draws", "variance", "mean", "log_variance"):
        np.testing.assert_allclose(getattr(some, name), getattr(whole, name)[rows], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(getattr(in_parts, name), getattr(whole, name), rtol=1e-9, atol=1e-9)
    other = refit_posterior(module, x[rows], steps=18, draws=18, seed=0, keys=(2,), rows=rows)
    assert (other.mean != some.mean).all()


def test_the_network_is_left_as_it_was():
    module = VAE(hidden=[8], latent_dim=2).make_module((5,)).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    refit_posterior(module, torch.zeros(4, 5), seed=0)
    assert module.training
    assert all(p.grad is None and p.requires_grad for p in module.parameters())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_network_without_a_posterior_is_refused():
    with pytest.raises(ModelError, match="posterior"):
        refit_posterior(nn.Linear(2, 2), torch.zeros(3, 2), seed=0)


# --- the parts of a score


def test_parts_leave_failed_splits_out():
    splits = Splits.k_fold(12, 3, 2, 0)
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=(2, 6, 12))
    after[1] = np.nan
    decoder, enc = encoder_bias.parts(before, after, splits.held_out, splits.repeat)
    for i in range(12):
        for r, rows in enumerate(([0, 2], [3, 4, 5])):
            out = [s for s in rows if splits.held_out[s, i]]
            inside = [s for s in rows if not splits.held_out[s, i]]
            if not out:
                assert np.isnan(decoder[r, i]) and np.isnan(enc[r, i])
                continue
            assert decoder[r, i] == pytest.approx(after[inside, i].mean() - after[out, i].mean())
            assert decoder[r, i] + enc[r, i] == pytest.approx(before[inside, i].mean() - before[out, i].mean())


@pytest.mark.parametrize("repeats", [1, 2, 4])
def test_intervals_of_the_bias_cover(repeats):
    rng, covered, n, m = np.random.default_rng(0), [], 400, 80
    splits = Splits.k_fold(m, 5, repeats, 0)
    for _ in range(300):
        network_effect, example_effect = rng.normal(size=5 * repeats), 2 * rng.normal(size=n)
        some = rng.choice(n, m, replace=False)
        gap = example_effect[some] * splits.held_out + network_effect[:, None] + rng.normal(size=(5 * repeats, m))
        effect, _ = encoder_bias.parts(-gap, -gap, splits.held_out, splits.repeat)
        low, high = encoder_bias.mean_over_examples(effect, splits.held_out, splits.repeat, n).interval
        covered.append(low <= example_effect.mean() <= high)
    assert 0.93 < np.mean(covered)


def test_no_interval_from_one_repeat_of_overlapping_splits():
    splits = Splits.subsets(40, 0.6, 5, 0)
    found = encoder_bias.mean_over_examples(np.ones((1, 40)), splits.held_out, splits.repeat, 40)
    assert found.value == 1 and found.over == "" and np.isnan(found.interval).all()


@pytest.mark.parametrize("repeats", [1, 6])
def test_the_share_of_draws_in_a_score(repeats):
    splits, rng = Splits.k_fold(500, 5, repeats, 0), np.random.default_rng(0)
    ell = rng.normal(0, 2, splits.held_out.shape)
    variance = np.where(splits.held_out, 0.5, 0.2)
    share, v_in, v_out = encoder_bias.noise_share(variance, ell, splits.held_out, splits.repeat)
    assert (v_in, v_out) == (pytest.approx(0.2), pytest.approx(0.5))
    assert share == pytest.approx((0.5 + 0.2 / 4) / (4 * (1 + 1 / 4)), rel=0.1)
    assert encoder_bias.noise_share(0 * ell, 0 * ell, splits.held_out, splits.repeat)[0] == 0


# --- the driver


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(60, 6)) + 2 * rng.integers(0, 3, (60, 1))).astype(np.float32)
    model = VAE(hidden=[16], latent_dim=2, epochs=60, batch_size=16, learning_rate=5e-3, device="cpu").resolve(X)
    path = tmp_path_factory.mktemp("run") / "r"
    run = Run.create(path, model=model, data=load(X), splits=Splits.k_fold(60, 3, 2, 0), score_epochs=(60,))
    run.set_probe({"method": "loop", "lanes": 1, "device": "cpu"})
    refit(run)
    return path


@pytest.fixture
def run(template, tmp_path):
    import shutil

    return Run.open(shutil.copytree(template, tmp_path / "r"))


@pytest.mark.slow
def test_what_is_stored_is_the_refit_of_the_stored_weights(run):
    examples = [40, 3, 17, 59]
    refit_posteriors(run, examples)
    found, X, splits = read_posteriors(run), run.data().X, run.splits()
    assert found.examples.tolist() == sorted(examples) and found.draws == 16
    assert posterior_log_probs(run)[1].shape == (6, 4)
    for split in (0, 4):
        module = VAE(hidden=[16], latent_dim=2).resolve(X).make_module((6,))
        module.load_state_dict({k: torch.from_numpy(v)[0] for k, v in run.weights(split).items()})
        whole = refit_posterior(module, torch.from_numpy(np.array(X)), seed=run.seed, keys=(int(splits.repeat[split]),))
        np.testing.assert_allclose(found.log_probs[split], whole.log_prob[found.examples], atol=1e-4)
        np.testing.assert_allclose(found.variance[split], whole.variance[found.examples], atol=1e-4)


@pytest.mark.slow
def test_examples_added_later_and_shards_lost_give_the_same(run, monkeypatch):
    refit_posteriors(run, range(60))
    whole = read_posteriors(run)
    for i in run.shards():
        driver._path(run, i).unlink()
    refit_posteriors(run, [5, 50])
    driver._path(run, 2).unlink()
    with pytest.raises(IncompleteRunError, match="5, with 16 draws"):
        read_posteriors(run)
    calls = []
    compute = driver.compute_posteriors
    monkeypatch.setattr(
        driver, "compute_posteriors", lambda task, some, X: calls.append(some) or compute(task, some, X)
    )
    refit_posteriors(run, [5, 50])
    assert [some.shard for some in calls] == [2]
    refit_posteriors(run, range(60))
    assert {len(some.examples) for some in calls[1:]} == {58}
    again = read_posteriors(run)
    np.testing.assert_allclose(again.log_probs, whole.log_probs, atol=1e-5)
    refit_posteriors(run, range(10))
    assert len(calls) == 7


@pytest.mark.slow
def test_workers_compute_the_same(run, tmp_path):
    refit_posteriors(run, [1, 2, 30])
    here = read_posteriors(run)
    for i in run.shards():
        driver._path(run, i).unlink()
    with ThreadPoolExecutor(2) as pool:
        refit_posteriors(run, [1, 2, 30], executor=pool)
    np.testing.assert_array_equal(read_posteriors(run).log_probs, here.log_probs)


@pytest.mark.slow
def test_a_damaged_file_is_named_and_made_again(run):
    refit_posteriors(run, [1, 2])
    before, file = read_posteriors(run), driver._path(run, 3)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(RunError, match="0003"):
        refit_posteriors(run, [1, 2])
    assert driver.drop_damaged_posteriors(run) == [file]
    refit_posteriors(run, [1, 2])
    np.testing.assert_array_equal(read_posteriors(run).log_probs, before.log_probs)


@pytest.mark.slow
def test_failed_splits_have_no_posteriors(run):
    shard = dict(np.load(run.shard_path(1)))
    arrays = {name: shard[name] for name in shard if name not in ("checksum", "has_weights")}
    arrays["log_probs"] = arrays["log_probs"] * np.nan
    arrays["failed"] = np.array(["training diverged"])
    weights = {f"weights/{name}": value * np.nan for name, value in run.weights(1).items()}
    run.write_shard(1, **arrays, **weights)
    refit_posteriors(run, range(60))
    found = read_posteriors(run)
    assert np.isnan(found.log_probs[1]).all() and np.isfinite(np.delete(found.log_probs, 1, 0)).all()
    corrected = correct_encoder(run)
    out = run.splits().held_out[1]
    assert np.isnan(corrected.decoder[0, out]).all() and np.isfinite(corrected.decoder[:, ~out]).all()


@pytest.mark.slow
def test_other_numbers_of_draws_replace_what_was_there(run):
    refit_posteriors(run, [1, 2])
    refit_posteriors(run, [2, 3], draws=32)
    found = read_posteriors(run)
    assert found.examples.tolist() == [2, 3] and found.draws == 32 and found.effective_draws.max() > 16


@pytest.mark.slow
def test_examples_that_are_not_there(run):
    with pytest.raises(DataError, match="from 0 to 59"):
        refit_posteriors(run, [60])
    with pytest.raises(IncompleteRunError, match="genmem posterior"):
        read_posteriors(run)


# --- what is done when


@pytest.mark.slow
def test_auto_refits_the_sample_and_what_is_flagged_where_the_bias_is_small(run, monkeypatch):
    monkeypatch.setattr(encoder_bias, "sample_of", lambda n, seed: np.arange(0, n, 2))
    monkeypatch.setattr(encoder_bias, "exceeds", lambda bias, score: False)
    found = correct_encoder(run, flagged=[7, 8])
    assert not found.everywhere
    assert found.examples.tolist() == sorted({*range(0, 60, 2), 7}) and len(found.sample) == 30
    splits = run.splits()
    log_p = run.log_probs()[:, found.examples]
    whole, _ = encoder_bias.parts(log_p, log_p, splits.held_out[:, found.examples], splits.repeat)
    np.testing.assert_allclose(found.decoder + found.encoder, whole, atol=1e-6)
    at = np.isin(found.examples, found.sample)
    assert found.bias.value == pytest.approx(-found.encoder[:, at].mean())
    assert found.score == pytest.approx(whole[:, at].mean())


@pytest.mark.slow
def test_auto_refits_everywhere_where_the_bias_is_large(run, monkeypatch):
    asked = []
    monkeypatch.setattr(encoder_bias, "sample_of", lambda n, seed: np.arange(0, n, 2))
    monkeypatch.setattr(encoder_bias, "exceeds", lambda bias, score: asked.append((bias, score)) or True)
    found = correct_encoder(run)
    assert found.everywhere and len(found.sample) == 60
    assert asked == [
        (pytest.approx(-found.encoder[:, ::2].mean()), pytest.approx((found.decoder + found.encoder)[:, ::2].mean()))
    ]
    assert found.bias.interval[0] < found.bias.value < found.bias.interval[1]
    assert found.effective_after > found.effective_before
    again = correct_encoder(run, "refit")
    np.testing.assert_array_equal(again.decoder, found.decoder)
    assert again.bias == found.bias


@pytest.mark.slow
def test_more_draws_where_they_are_too_noisy(run, monkeypatch):
    monkeypatch.setattr(encoder_bias, "NOISE_SHARE", 1e-9)
    assert correct_encoder(run).draws == 64
    assert correct_encoder(run).draws == 64


@pytest.mark.slow
def test_amortised_and_models_without_a_posterior(run, tmp_path, blobs):
    assert correct_encoder(run, "amortised") is None
    with pytest.raises(DataError, match="auto, refit, amortised"):
        correct_encoder(run, "always")
    X = blobs[0]
    plain = Run.create(tmp_path / "k", model=KernelDensity(), data=load(X), splits=Splits.k_fold(len(X), 3, 1, 0))
    refit(plain)
    assert correct_encoder(plain, "auto") is None
    with pytest.raises(ModelError, match="KernelDensity"):
        correct_encoder(plain, "refit")
