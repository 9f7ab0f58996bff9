"""What an audit can be asked for beyond its defaults: designs, more repeats, posteriors, adjusted scores, failures."""

import warnings

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

import genmem
from genmem import stages
from genmem.errors import DataError, ModelError
from genmem.leaveout import memorization_score
from genmem.leaveout.probe import estimate
from genmem.models import VAE
from genmem.run import Run

SMALL = {"hidden": [8], "latent_dim": 2}
UNFOLDED = {"epochs": 3, "settings": SMALL}
QUICK = {"folds": 3, **UNFOLDED}


@pytest.fixture
def X(blobs):
    return blobs[0]


@pytest.mark.slow
def test_repeats_are_added_until_the_scores_are_reliable(X, tmp_path):
    with pytest.warns(UserWarning, match="all 6 planned repeats"):
        found = genmem.audit(X, out=tmp_path / "r", repeats=2, max_repeats=6, target_reliability=0.999, **QUICK)
    run = Run.open(found.path)
    assert run.looks == (2, 3, 5, 6)  # none of it depends on the data, only where it ends
    assert found.scores.n_repeats == 6 and found.summary["asked"]["design"]["repeats"] == 6
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # even that may be out of reach
        easy = genmem.audit(X, out=tmp_path / "e", repeats=3, max_repeats=6, target_reliability=1e-9, **QUICK)
    short, splits = Run.open(easy.path), Run.open(easy.path).used_splits()
    reached = memorization_score(short.log_probs(), splits.held_out, repeat=splits.repeat).reliability
    assert short.looks[0] == 3 and (short.looks[-1] == 6 or reached >= 1e-9)
    if run.probe["method"] == short.probe["method"]:  # the first repeats are the same, however many follow
        np.testing.assert_array_equal(run.log_probs(repeats=3), short.log_probs(repeats=3))


@pytest.mark.slow
def test_repeats_that_are_not_asked_for_stay_undone(X, tmp_path):
    run = stages.plan(X, out=tmp_path / "r", repeats=2, max_repeats=4, **QUICK)
    stages.refit(run)
    assert run.pending() == [] and len(run.pending(repeats=4)) == 6
    with pytest.raises(DataError, match="between 0 and 1"):
        stages.refit(run, target_reliability=1.5)


@pytest.mark.slow
def test_designs(X, tmp_path):
    subsets = stages.plan(X, out=tmp_path / "s", fraction=0.5, repeats=2, **UNFOLDED)
    assert subsets.splits().kind == "subsets" and subsets.splits().held_out.mean() == pytest.approx(0.5, abs=0.02)
    twins = np.concatenate([X, X[:20]])
    together = stages.plan(twins, out=tmp_path / "t", together=True, repeats=1, **QUICK).splits().held_out
    np.testing.assert_array_equal(together[:, :20], together[:, -20:])
    labels = np.repeat(["a", "b", "c"], 20)
    groups = stages.plan(X[:60], out=tmp_path / "l", labels=labels, leave_out="labels", **UNFOLDED).splits().held_out
    assert sorted(map(tuple, groups[:, ::20])) == [(False, False, True), (False, True, False), (True, False, False)]
    with pytest.raises(DataError, match="without labels"):
        stages.plan(X, out=tmp_path / "n", leave_out="labels", **UNFOLDED)
    with pytest.raises(DataError, match="one design"):
        stages.plan(X, out=tmp_path / "m", leave_out="labels", fraction=0.5, **UNFOLDED)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("design", "said"), [({"folds": 3}, "its fold (trained on 67%"), ({"fraction": 0.5}, "random subset")]
)
def test_the_estimand_is_that_of_the_design(design, said, X, tmp_path):
    asked = genmem.audit(X, out=tmp_path / "r", repeats=1, **UNFOLDED, **design).summary["asked"]
    assert said in asked["estimand"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["amortised", "refit"])
def test_posteriors_are_refitted_as_asked(mode, X, tmp_path):
    found = genmem.audit(X, out=tmp_path / "r", repeats=3, posterior=mode, **QUICK)
    run, splits = Run.open(found.path), Run.open(found.path).splits()
    through_encoder = memorization_score(run.log_probs(), splits.held_out, repeat=splits.repeat).score
    table = pq.read_table(found.path / "scores.parquet")
    assert found.summary["asked"]["posterior"] == mode
    if mode == "amortised":
        np.testing.assert_array_equal(found.scores.score, through_encoder)
        assert "encoder_part" not in table.column_names
        return
    parts = table["decoder_part"].to_numpy(), table["encoder_part"].to_numpy()
    np.testing.assert_allclose(parts[0], found.scores.score, atol=1e-5)
    np.testing.assert_allclose(parts[0] + parts[1], through_encoder, atol=1e-4)
    assert {f["id"] for f in found.findings} >= {"encoder_part"}
    assert {c["id"] for c in found.summary["checks"]} >= {"encoder_bias", "failed_refits"}
    again = stages.posterior(run, posterior="amortised")
    assert again is None and not run.has_result("posterior")


@pytest.mark.slow
def test_models_without_an_encoder_have_nothing_to_refit(X, tmp_path):
    from sklearn.mixture import GaussianMixture

    model = GaussianMixture(2, random_state=0)
    found = genmem.audit(X, model, out=tmp_path / "r", folds=3, repeats=1)
    assert found.summary["asked"]["posterior"] is None
    with pytest.raises(ModelError, match="posterior"):
        genmem.audit(X, model, out=tmp_path / "r", folds=3, repeats=1, posterior="refit")


@pytest.mark.slow
def test_adjusted_scores_stand_beside_the_raw_ones(X, tmp_path):
    asked = {"folds": 3, "repeats": 4, "epochs": 30, "score_epochs": (10, 30), "settings": SMALL}
    found = genmem.audit(X, out=tmp_path / "r", estimator="adjusted", posterior="amortised", **asked)
    table = pq.read_table(found.path / "scores.parquet")
    np.testing.assert_allclose(table["score"].to_numpy(), found.scores.score)
    stored = Run.open(found.path).result("adjusted")
    np.testing.assert_allclose(
        table["adjusted_score"].to_numpy(),
        stored["prediction"] + stored["weight"] * (found.scores.score - stored["prediction"]),
        atol=1e-9,
    )
    assert {c["id"] for c in found.summary["checks"]} >= {"adjusted_guard"}
    plain = stages.score(Run.open(found.path))
    assert not Run.open(found.path).has_result("adjusted")
    np.testing.assert_array_equal(plain.score, found.scores.score)


class Diverging(VAE):
    """Diverges where the first example is left out of training: its fold holds the only large value."""

    def make_module(self, event_shape):
        module = super().make_module(event_shape)
        if torch.initial_seed() in Diverging.doomed:
            with torch.no_grad():
                next(module.parameters()).fill_(torch.nan)
        return module

    doomed: frozenset[int] = frozenset()


@pytest.mark.slow
def test_a_refit_that_diverges_is_left_out_and_counted(X, tmp_path, monkeypatch):
    from genmem.seeding import seed_for

    monkeypatch.setattr(Diverging, "doomed", frozenset({seed_for(0, "weights", 4)}))
    model = Diverging(hidden=[8], latent_dim=2, epochs=3)
    with pytest.warns(UserWarning, match="1 refit failed"):
        found = genmem.audit(X, model, out=tmp_path / "r", folds=3, repeats=4)
    assert list(Run.open(found.path).failed()) == [4]
    check = next(c for c in found.summary["checks"] if c["id"] == "failed_refits")
    assert check["value"] == 1 and not check["ok"] and "split 4" in check["sentence"]
    assert "split 4" in found.report.read_text()
    used = np.isfinite(found.scores.per_repeat).sum(0)
    out = Run.open(found.path).splits().held_out[4]
    assert (used[out] == 3).all() and (used[~out] == 4).all()
    assert np.isfinite(found.scores.score).all()


@pytest.mark.slow
def test_what_an_audit_takes_is_told_beforehand(X, tmp_path):
    run = stages.plan(X, out=tmp_path / "r", repeats=2, **QUICK)
    told = estimate(run)
    assert set(told.seconds) >= {"refit", "fit", "posterior", "score", "neighbors"}
    assert told.total > 0 and told.memory > 1 << 27
    genmem.audit(X, out=tmp_path / "r", repeats=2, **QUICK)
    taken = sum(file.stat().st_size for file in (tmp_path / "r").rglob("*") if file.is_file())
    assert 1 / 1.5 < told.disk / taken < 1.5


def test_a_network_of_ones_own_is_told_too(X, tmp_path):
    class Plain(genmem.DeepDensity):
        def make_module(self, event_shape):
            return Line(event_shape[0])

    run = stages.plan(X, Plain(epochs=2), out=tmp_path / "r", repeats=1, folds=3)
    assert estimate(run).seconds["posterior"] == 0


class Line(nn.Module):
    """An exact normal density."""

    def __init__(self, width):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(width))

    def log_weights(self, x, draws=1):
        return (-0.5 * (x - self.mean).square() - 0.9189385).sum(-1)[None]

    def forward(self, x, draws=1):
        return -self.log_weights(x)[0]

    def sample(self, n):
        return self.mean + torch.randn(n, len(self.mean))


@pytest.mark.slow
def test_parts_of_scores_do_not_outlive_the_refits_they_are_of(X, tmp_path):
    run = stages.plan(X, out=tmp_path / "r", repeats=3, max_repeats=4, **QUICK)
    stages.refit(run)
    stages.posterior(run, posterior="refit")
    stages.score(run)
    assert "decoder_part" in pq.read_table(tmp_path / "r" / "scores.parquet").column_names
    run.use_repeats(4)
    stages.refit(run)
    scores, splits = stages.score(run), run.used_splits()
    assert "decoder_part" not in pq.read_table(tmp_path / "r" / "scores.parquet").column_names
    through_encoder = memorization_score(run.log_probs(), splits.held_out, repeat=splits.repeat).score
    np.testing.assert_array_equal(scores.score, through_encoder)


@pytest.mark.slow
def test_parts_belong_to_the_default_estimator(X, tmp_path):
    found = genmem.audit(X, out=tmp_path / "r", repeats=3, posterior="refit", estimator="log_mean", **QUICK)
    assert "encoder_part" not in pq.read_table(found.path / "scores.parquet").column_names
    assert not [f for f in found.findings if f["id"] == "encoder_part"]


@pytest.mark.slow
def test_what_was_refitted_earlier_does_not_change_what_is_decided(X, tmp_path, monkeypatch):
    monkeypatch.setattr("genmem.leaveout.encoder_bias.exceeds", lambda *_: False)
    monkeypatch.setattr("genmem.leaveout.encoder_bias.sample_of", lambda n, seed: np.arange(0, n, 3))
    run = stages.plan(X, out=tmp_path / "r", repeats=3, **QUICK)
    stages.refit(run)
    first, everywhere, again = (stages.posterior(run, posterior=mode) for mode in ("auto", "refit", "auto"))
    assert everywhere.everywhere and not first.everywhere and not again.everywhere
    np.testing.assert_array_equal(first.examples, again.examples)
    assert first.bias == again.bias


@pytest.mark.slow
def test_adjusted_scores_that_cannot_be_had_cost_nothing_else(X, tmp_path):
    found = genmem.audit(X[:12], out=tmp_path / "r", repeats=3, estimator="adjusted", **QUICK)
    check = next(c for c in found.summary["checks"] if c["id"] == "adjusted_guard")
    assert not check["ok"] and "20 distinct examples" in check["sentence"]
    assert "adjusted_score" not in pq.read_table(found.path / "scores.parquet").column_names


@pytest.mark.slow
def test_a_target_out_of_reach_is_said(X, tmp_path):
    with pytest.raises(DataError, match=r"at least repeats \(3\)"):
        stages.plan(X, out=tmp_path / "n", repeats=3, max_repeats=2, **QUICK)
    run = stages.plan(X, out=tmp_path / "r", repeats=3, **QUICK)
    with pytest.warns(UserWarning, match=r"with all 3 planned repeats, not 0\.999"):
        stages.refit(run, target_reliability=0.999)
