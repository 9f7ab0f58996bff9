"""Whole stories: a thinned class is the neediest, a killed run resumes, planted copies are less memorized."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import genmem
from genmem.data import load
from genmem.models import VAE
from genmem.run import Run


@pytest.mark.slow
def test_a_thinned_class_is_the_neediest(tmp_path):
    data = load("digits")
    rng, thin = np.random.default_rng(0), 4
    keep = np.isin(data.labels, [0, 1, 2, 4])
    of_thin = np.flatnonzero(data.labels == thin)
    keep[rng.permutation(of_thin)[10:]] = False
    X, y = data.X[keep], data.labels[keep]
    model = VAE(hidden=[64], latent_dim=6, epochs=120)
    found = genmem.audit(X, model, out=tmp_path / "r", labels=y, folds=5, repeats=3, score_epochs=(120,))
    by_label = [g for g in found.summary["groups"] if g["kind"] == "label"]
    assert by_label[0]["name"] == str(thin) and by_label[0]["n"] == 10
    assert by_label[0]["interval"][0] > 1.5 * by_label[1]["mean"]
    (named,) = [f for f in found.findings if f["id"] == "neediest_label"]
    assert f"label {thin}" in named["sentence"]
    assert f"label {thin}" in found.report.read_text()


@pytest.mark.slow
def test_killed_at_twenty_random_moments_and_resumed_equals_uninterrupted(tmp_path):
    settings = "--folds 3 --repeats 6 --epochs 30 --subset 200 --set hidden=16 --set latent_dim=3 --score-epochs 10,30"
    settings += " --importance-samples 4"
    script = Path(__file__).with_name("kill_and_resume.py")
    done = subprocess.run(
        [sys.executable, script, "20", *settings.split()], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 10  # the others had finished
    for trial in range(20):
        cut, whole = Run.open(tmp_path / f"cut{trial}"), Run.open(tmp_path / ("refit" if trial % 5 else "audit"))
        np.testing.assert_array_equal(cut.log_probs(), whole.log_probs())
        np.testing.assert_array_equal(cut.result("scores")["score"], whole.result("scores")["score"])
        assert all((w == cut.weights(17)[name]).all() for name, w in whole.weights(17).items())
        assert not list(cut.path.glob("**/*.partial"))


@pytest.mark.slow
def test_a_copy_in_the_data_hides_memorization(tmp_path):
    data = load("digits", subset=240)
    odd = np.random.default_rng(1).random((1, 64)).astype(np.float32)  # an image unlike any digit

    def score_of_odd(copies):
        X = np.concatenate([data.X, np.repeat(odd, copies, axis=0)])
        model = VAE(hidden=[64], latent_dim=6, epochs=250, batch_size=32)
        found = genmem.audit(X, model, out=tmp_path / f"r{copies}", folds=4, repeats=3, score_epochs=(250,))
        return found.scores.score[240], found.scores.score[:240]

    alone, others = score_of_odd(1)
    twinned, _ = score_of_odd(6)
    assert alone > np.quantile(others, 0.99)
    assert twinned < alone / 2
