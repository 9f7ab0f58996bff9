"""Whole stories: a thinned class is the neediest, a killed run resumes, planted copies are less memorized."""

import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np

import genmem
from genmem.data import load
from genmem.models import VAE
from genmem.run import Run


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


def test_killed_at_random_moments_and_resumed_equals_uninterrupted(tmp_path):
    settings = "--folds 3 --repeats 6 --epochs 60 --subset 200 --set hidden=16 --set latent_dim=3"
    plan = [sys.executable, "-m", "genmem_cli.main", "plan", "digits", "--out", "plan", *settings.split()]
    subprocess.run(plan, cwd=tmp_path, check=True, capture_output=True)

    def audit(out):
        shutil.copytree(tmp_path / "plan", tmp_path / out, dirs_exist_ok=True)
        command = [*plan[:3], "audit", "digits", "--out", out, "--lanes", "3", *settings.split()]
        return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)

    began = time.time()
    assert audit("whole").wait() == 0
    took, whole = time.time() - began, Run.open(tmp_path / "whole")
    moments, killed = random.Random(0), 0
    for trial in range(10):
        process = audit(f"cut{trial}")
        time.sleep(moments.uniform(0.3, 1.0) * took)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        assert audit(f"cut{trial}").wait() == 0
        cut = Run.open(tmp_path / f"cut{trial}")
        np.testing.assert_array_equal(cut.log_probs(), whole.log_probs())
        np.testing.assert_array_equal(cut.result("scores")["score"], whole.result("scores")["score"])
        assert not list(cut.path.glob("**/*.partial"))
    assert killed >= 5  # the others had finished


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
