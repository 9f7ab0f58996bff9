"""The influence of an audit: what the stage stores, what is made of it, and how the report shows it."""

import json
import shutil
import signal
import subprocess
import sys
from importlib.resources import files

import jsonschema
import numpy as np
import pytest
from fake_influence import add_influence
from fake_run import make_run
from pages import PAYLOADS, Tags, figure_of, own_part, visible
from sklearn.datasets import load_digits
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

import genmem
from genmem import stages, stats
from genmem.errors import DataError, IncompleteRunError, ModelError
from genmem.findings.influence import Found, find_influence, influence_of, label_agreement, self_check
from genmem.influence import influence_scores, self_influence
from genmem.models import VAE, KNNDensity
from genmem.plots import self_influence_against_score
from genmem.report import write_report
from genmem.report.attribution import influence_score
from genmem.run import Run
from genmem.seeding import seed32
from genmem.stages import _attribution
from genmem.training.trajectory import load_trajectory
from genmem_cli.main import run as cli

SCHEMA = json.loads(files("genmem.report").joinpath("audit.schema.json").read_text())
QUICK = {"folds": 3, "repeats": 2, "settings": {"hidden": [12], "latent_dim": 2, "epochs": 12}}
ASKED = {"draws": 4, "samples": 3, "queries": 4, "k": 3}


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """An audit of 150 digits, without influence."""
    return genmem.audit("digits", out=tmp_path_factory.mktemp("runs") / "plain", subset=150, **QUICK).path


@pytest.fixture(scope="module")
def done(audited, tmp_path_factory):
    """The same with influence, and what the stage returned."""
    path = shutil.copytree(audited, tmp_path_factory.mktemp("runs") / "done")
    return path, stages.influence(Run.open(path), **ASKED)


@pytest.fixture
def copied(audited, tmp_path):
    return Run.open(shutil.copytree(audited, tmp_path / "copy"))


def fitted(run):
    """The network of a run and its trajectory, put together by hand."""
    trajectory = load_trajectory(run.path / "trajectory")
    model = VAE(**run.plan["model"]["params"])
    model.restore(trajectory[-1].state_dict(), run.data().X.shape[1:], len(run.data().X))
    model.trajectory_ = trajectory
    return model


# --- what is stored


@pytest.mark.slow
def test_lists_are_those_of_the_whole_matrix(done):
    run = Run.open(done[0])
    found, X = run.result("influence"), np.asarray(run.data().X)
    assert found["memorized"].tolist() == np.argsort(-run.result("scores")["score"], kind="stable")[:4].tolist()
    assert found["checked"].tolist() == list(range(128)) and found["examples"].tolist() == list(range(150))
    Z = np.concatenate([X[:128], X[found["memorized"]], found["samples"]])
    scores = influence_scores(fitted(run), X, Z, draws=4, seed=run.seed)
    for name, start in (("checked", 0), ("memorized", 128), ("samples", 132)):
        part = scores[:, start : start + len(found[name])]
        order = np.argsort(-part, axis=0)[:6].T
        np.testing.assert_array_equal(found[f"{name}_proponents"], order)
        np.testing.assert_allclose(found[f"{name}_proponent_scores"], np.take_along_axis(part.T, order, 1), rtol=1e-9)
        np.testing.assert_array_equal(found[f"{name}_opponents"], np.argsort(part, axis=0)[:6].T)
    drawn = fitted(run).sample(3, random_state=seed32(run.seed, "influence samples"))  # as training left it
    np.testing.assert_array_equal(found["samples"], drawn)
    own, error = self_influence(fitted(run), X, draws=4, seed=run.seed, return_std=True)
    np.testing.assert_allclose(found["self_influence"], own, rtol=1e-9)
    np.testing.assert_allclose(found["self_error"], error, rtol=1e-9)


@pytest.mark.slow
def test_findings_say_what_the_matrix_holds(done):
    run = Run.open(done[0])
    X, labels = np.asarray(run.data().X), run.data().labels
    scores = influence_scores(fitted(run), X, X, draws=4, seed=run.seed)[:, :128]  # queries keep their draws
    said = {f.id: f for f in find_influence(run)}
    rank = (scores > scores.diagonal()).sum(0) + 1
    assert said["self_check"].value == pytest.approx((rank == 1).mean())
    assert f"{(rank <= 5).sum()} are among their own 5" in said["self_check"].sentence
    assert said["self_check"].null == 1 / 150
    agree, chance = [], []
    for query in range(128):
        order = [p for p in np.argsort(-scores[:, query]) if p != query][:5]
        agree.append((labels[order] == labels[query]).mean())
        chance.append((np.delete(labels, query) == labels[query]).mean())
    assert said["label_agreement"].value == pytest.approx(np.mean(agree))
    assert said["label_agreement"].null == pytest.approx(np.mean(chance))
    own = run.result("influence")["self_influence"]
    expected = stats.spearman(own, run.result("scores")["score"])
    assert said["self_influence_vs_score"].value == pytest.approx(expected.rho)
    assert said["self_influence_vs_score"].interval == pytest.approx(expected.interval)
    of = {c["of"]: c["rho"] for c in done[1]["correlations"]}
    beside = {c["of"]: c["score_rho"] for c in done[1]["correlations"]}
    norm = np.linalg.norm(run.result("latents")["mean"], axis=1)
    assert of["norm of the latent mean"] == pytest.approx(stats.spearman(own, norm).rho)
    assert of["loss (-log_prob_in)"] == pytest.approx(stats.spearman(own, -run.result("scores")["log_prob_in"]).rho)
    assert beside["norm of the latent mean"] == pytest.approx(stats.spearman(norm, run.result("scores")["score"]).rho)
    assert beside["memorization score"] is None
    distance = run.result("neighbors")["distance"]
    assert of["distance to the nearest neighbour of rank 5"] == pytest.approx(stats.spearman(own, distance).rho)


@pytest.mark.slow
def test_audit_json_and_report_speak_of_influence(done):
    audit = json.loads((done[0] / "audit.json").read_text())
    jsonschema.validate(audit, SCHEMA)
    assert audit["influence"]["method"] == "trajectory" and audit["influence"]["checkpoints"] == 7
    assert audit["influence"]["coverage"].startswith("100% of")
    assert any("first-order estimate" in text for text in audit["limitations"])
    page = visible(done[0] / "report.html")
    assert "Where did these samples of the model come from?" in page and audit["influence"]["coverage"] in page
    run, tags = Run.open(done[0]), Tags(own_part(done[0] / "report.html")).found
    pictures = [attrs["alt"] for tag, attrs in tags if tag == "img"]
    assert [alt for alt in pictures if alt.startswith("sample")] == [f"sample {i} of the model" for i in (1, 2, 3)]
    strongest = run.data().index[run.result("influence")["samples_proponents"][0, 0]]
    assert pictures[pictures.index("sample 1 of the model") + 1].startswith(f"row {strongest},")


@pytest.mark.slow
def test_another_k_or_scale_uses_the_same_sums(done, tmp_path):
    run = Run.open(shutil.copytree(done[0], tmp_path / "again"))

    def sums():
        return {file: file.stat().st_mtime_ns for file in (run.path / "influence").glob("*/*/*.npz")}

    before = sums()
    about = stages.influence(run, **{**ASKED, "k": 2}, scale="cosine")
    assert about["k"] == 2 and about["unit"] == "cosines of gradients, from -1 to 1"
    assert (np.abs(run.result("influence")["samples_proponent_scores"]) <= 1).all()
    assert sums() == before and before


@pytest.mark.slow
def test_killed_and_resumed_is_the_same(done, copied):
    code = (
        "import os, sys; from genmem import Run, stages; count = []\n"
        "def listen(said):\n"
        "    count.append(said)\n"
        "    if len(count) == int(sys.argv[2]): os.kill(os.getpid(), 9)\n"
        f"stages.influence(Run.open(sys.argv[1]), progress=listen, **{ASKED})"
    )
    reports = []
    ended = subprocess.run([sys.executable, "-c", code, str(copied.path), "4"], check=False)
    assert ended.returncode == -signal.SIGKILL and not copied.has_result("influence")
    assert list((copied.path / "influence").glob("*/queries/*.npz"))
    stages.influence(copied, progress=reports.append, **ASKED)
    whole = Run.open(done[0]).result("influence")
    for name, values in copied.result("influence").items():
        np.testing.assert_array_equal(values, whole[name], err_msg=name)
    shares = [said.done for said in reports if said.stage == "influence"]
    assert shares == sorted(shares) and shares[-1] == 1


@pytest.mark.slow
def test_what_is_done_is_not_done_again_until_scores_change(done, tmp_path, monkeypatch):
    run = Run.open(shutil.copytree(done[0], tmp_path / "again"))
    monkeypatch.setattr("genmem.stages._influence.way_of", pytest.fail)
    assert stages.influence(run, **ASKED) == done[1]
    stages.score(run, estimator="log_mean")
    stages.neighbors(run)
    stages.regions(run)
    assert influence_of(run) is None and find_influence(run) == []
    write_report(stages.report(run).parent)
    audit = json.loads((run.path / "audit.json").read_text())
    assert "influence" not in audit and "Influence</a>" not in own_part(run.path / "report.html")


@pytest.mark.slow
def test_a_subset_is_said(copied, monkeypatch):
    monkeypatch.setattr(_attribution, "LEAST", 30)
    monkeypatch.setitem(_attribution.BUDGET, "cpu", 0.0)
    about = stages.influence(copied, **ASKED)
    found = copied.result("influence")
    assert about["n"] == 30 and "A random 30 of 150 training examples" in about["subset"]
    assert "budget" in about["subset"]
    assert set(found["samples_proponents"].ravel()) <= set(found["examples"]) and len(found["checked"]) == 30
    page, listed = visible(copied.path / "report.html"), np.isin(found["memorized"], found["examples"])
    assert about["subset"] in page and page.count("itself not among the examples considered") == (~listed).sum() > 0
    jsonschema.validate(json.loads((copied.path / "audit.json").read_text()), SCHEMA)
    monkeypatch.setitem(_attribution.BUDGET, "cpu", 1e30)
    assert stages.influence(copied, **ASKED, examples=40)["n"] == 40
    assert len(list((copied.path / "influence").iterdir())) == 1  # the sums of other questions are forgotten
    assert stages.influence(copied, **{**ASKED, "queries": [7, 3]})["subset"] is None
    assert copied.result("influence")["memorized"].tolist() == [7, 3]
    assert "Which other examples shaped the chosen examples?" in visible(copied.path / "report.html")


# --- the command line, and other models


@pytest.mark.slow
def test_command_and_its_errors(copied, capsys):
    few = ["--draws", "2", "--samples", "0", "--queries", "2", "--weights", "adam"]
    assert cli(["influence", str(copied.path), *few]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == str(copied.path)
    assert "weights adam, 2 draws" in said.err and copied.read_json("results/influence.json")["coverage"] in said.err
    page = visible(copied.path / "report.html")
    assert "Where did these samples" not in page and "weights adam, 2 draws" in page
    shutil.rmtree(copied.path / "trajectory")
    assert cli(["influence", str(copied.path)]) == 2
    assert f"genmem fit {copied.path}" in capsys.readouterr().err
    with pytest.raises(IncompleteRunError, match="trajectory"):
        stages.influence(copied)


@pytest.mark.slow
def test_kde_from_plan_to_report(tmp_path, capsys):
    arguments = "audit digits --subset 150 --model kde --folds 3 --repeats 2 --influence --out".split()
    assert cli([*arguments, str(tmp_path / "kde")]) == 0
    assert "150 training examples" not in (said := capsys.readouterr().out)
    assert "128 of 128 training examples are their own strongest proponent among 150" in said
    run = Run.open(tmp_path / "kde")
    audit = json.loads((run.path / "audit.json").read_text())
    jsonschema.validate(audit, SCHEMA)
    assert audit["influence"]["method"] == "formula" and audit["influence"]["draws"] is None
    assert "influence=True" in audit["asked"]["python"] and "--influence" in audit["asked"]["command"]
    found, X = run.result("influence"), np.asarray(run.data().X)
    model = KernelDensity(**run.plan["model"]["params"])
    np.testing.assert_allclose(found["self_influence"], self_influence(model, X))
    scores = influence_scores(model, X, found["samples"])
    np.testing.assert_array_equal(found["samples_proponents"][:, 0], scores.argmax(0))
    assert "In closed form" in visible(run.path / "report.html")
    with pytest.raises(ModelError, match="without gradients"):
        stages.influence(run, scale="cosine")


@pytest.mark.slow
def test_knn_has_no_opponents_to_name(blobs, tmp_path):
    path = genmem.audit(blobs[0], KNNDensity(k=7), out=tmp_path / "r", folds=3, repeats=2, influence=True).path
    found = Run.open(path).result("influence")
    assert (found["samples_opponents"] == -1).all()  # all others lose alike
    (check,) = (f for f in find_influence(Run.open(path)) if f.id == "self_check")
    assert check.value == 1  # though six others tie with each
    assert "Opponents none" in visible(path / "report.html")


@pytest.mark.slow
def test_mixtures_by_refits_while_there_are_few(blobs, tmp_path, monkeypatch):
    model = GaussianMixture(2, random_state=0)
    path = genmem.audit(blobs[0][::3], model, out=tmp_path / "r", labels=blobs[1][::3], folds=3, repeats=2).path
    run = Run.open(path)
    assert stages.influence(run, samples=2)["method"] == "refits"
    own = self_influence(model, np.asarray(run.data().X))
    np.testing.assert_allclose(run.result("influence")["self_influence"], own, atol=1e-8)
    monkeypatch.setattr(_attribution, "MOST_REFITS", 10)
    about = stages.influence(run, samples=3)
    assert "refitted without each of its 40" in about["skipped"] and not run.has_result("influence")
    audit = json.loads((path / "audit.json").read_text())
    jsonschema.validate(audit, SCHEMA)
    assert about["skipped"] in visible(path / "report.html")
    assert not [f for f in audit["findings"] if f["question"] == "influence"]


@pytest.mark.slow
@pytest.mark.parametrize("model", [GaussianMixture(3), KNNDensity(k=4)], ids=str)
def test_two_runs_are_equal(model, blobs, tmp_path):
    found = []
    for name in ("one", "other"):
        path = genmem.audit(blobs[0][::3], model, out=tmp_path / name, folds=2, repeats=2, influence=True).path
        found.append(Run.open(path).result("influence"))
    for name, values in found[0].items():
        np.testing.assert_array_equal(values, found[1][name], err_msg=name)


class Odd(KernelDensity):
    """A density nothing is known about: it fits in a way of its own."""

    def fit(self, X, y=None, sample_weight=None):
        return super().fit(X, y, sample_weight)


@pytest.mark.slow
def test_what_cannot_be_asked_is_said(copied, blobs, tmp_path):
    with pytest.raises(DataError, match="positions from 0 to 149"):
        stages.influence(copied, queries=[150])
    for name, value in (("k", 0), ("draws", 1), ("samples", -1), ("examples", 1), ("seed", -1), ("queries", "all")):
        with pytest.raises(DataError, match=name):
            stages.influence(copied, **{name: value})
    with pytest.raises(ModelError, match="complete"):
        stages.influence(copied, weights="even")
    run = stages.plan(blobs[0], Odd(), out=tmp_path / "odd", folds=3, repeats=2)
    with pytest.raises(IncompleteRunError, match="genmem score"):
        stages.influence(run)
    stages.refit(run)
    stages.score(run)
    with pytest.raises(ModelError, match="Odd"):
        stages.influence(run)


# --- what is made of it


def made_up(scores, depth=3):
    """The arrays of a run whose first examples were checked, from scores (n, checked)."""
    order = np.argsort(-scores, axis=0, kind="stable")[:depth].T
    listed = (order == np.arange(scores.shape[1])[:, None]).any(1)
    against = np.argsort(scores, axis=0, kind="stable")[:depth].T
    arrays = {"examples": np.arange(len(scores)), "checked": np.arange(scores.shape[1])}
    arrays |= {"checked_proponents": order, "checked_proponent_scores": np.take_along_axis(scores.T, order, 1)}
    arrays |= {"checked_opponents": against, "checked_opponent_scores": np.take_along_axis(scores.T, against, 1)}
    return {**arrays, "checked_itself": np.where(listed, scores.diagonal(), np.nan)}


def test_self_check_counts_ties_for_an_example_and_what_is_not_listed_against_it():
    scores = np.array([[5.0, 1, 1], [5, 2, 1], [1, 3, 0], [1, 4, 1], [0, 5, 1], [0, 6, 1], [0, 7, 1]])
    found = self_check(Found({"scale": "dot"}, made_up(scores)))
    assert found.value == pytest.approx(1 / 3) and found.null == pytest.approx(1 / 7)
    assert "1 are among their own 5" in found.sentence and found.examples == (1, 2)
    assert found.interval == pytest.approx(stats.share_interval(1, 3))


def test_label_agreement_leaves_the_example_and_wrong_signs_out():
    scores = np.array([[9.0, -1], [3, 8], [2, 7], [-1, -2]])
    agree, against = label_agreement(made_up(scores), np.array(["a", "b", "a", "a"]))
    assert agree.value == pytest.approx((1 / 2 + 0 / 1) / 2)  # of (1, 2) one is a; of (2,) none is b
    assert agree.null == pytest.approx((2 / 3 + 0) / 2) and agree.n == 2
    assert against.value == pytest.approx((1 + 0) / 2)  # of (3,) and (3, 0)


def test_share_interval_covers():
    rng = np.random.default_rng(0)
    inside = [low <= 0.9 <= high for low, high in (stats.share_interval(c, 128) for c in rng.binomial(128, 0.9, 2000))]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.025)
    assert stats.share_interval(0, 10)[0] == 0 < stats.share_interval(0, 10)[1]
    assert np.isnan(stats.share_interval(0, 0)).all()


# --- the report


@pytest.mark.slow
def test_page_of_a_table_shows_rows_and_columns(tmp_path):
    X = np.random.default_rng(0).normal(size=(50, 12))
    run = make_run(tmp_path / "run", X=X, columns=[f"feature {i}" for i in range(12)], labels=None)
    found = add_influence(run, samples=2, k=3)
    page = visible(write_report(run))
    first = 3 * found["samples_proponents"][0, 0]  # the row of the source
    assert f"Sample 1 Proponents {first} ({influence_score(found['samples_proponent_scores'][0, 0])})" in page
    assert "Column Here Proponent Median Apart, sd feature" in page
    own = found["memorized_proponent_scores"][0, 0]
    other = next(p for p in found["memorized_proponents"][0] if p != found["memorized"][0])
    assert f"itself {influence_score(own)}, rank 1 Proponents {3 * other} (" in page
    assert figure_of(run / "report.html", "influence")["layout"]["yaxis"]["title"]["text"] == "self-influence (nats)"
    jsonschema.validate(json.loads((run / "audit.json").read_text()), SCHEMA)


@pytest.mark.slow
@pytest.mark.parametrize("images", [True, False])
def test_payloads_stay_text(images, tmp_path):
    say, labels = "".join(PAYLOADS), np.array([f"{PAYLOADS[i % 3]}{i % 5}" for i in range(60)])
    X = load_digits().data[:60] if images else np.random.default_rng(0).normal(size=(60, 6))
    more = {"image_shape": [8, 8]} if images else {"columns": [f"{say}{i}" for i in range(6)]}
    run = make_run(tmp_path / "run", X=X, labels=labels, say=say, **more)
    add_influence(run, say=say)
    page = own_part(write_report(run))
    assert not any(payload in page for payload in PAYLOADS[:3])
    assert not [name for _, attrs in Tags(page).found for name in attrs if name.startswith("on")]
    section = page[page.index('id="influence"') :]
    assert "&lt;img src=x onerror" in section and "{{ 7*7 }}" in section
    assert all(
        "&lt;" in text for trace in figure_of(run / "report.html", "influence")["data"] for text in trace["text"]
    )
    assert page.count('alt="sample ') == (4 if images else 0)


@pytest.mark.slow
def test_weights_that_are_no_more_are_still_reported(tmp_path):
    run = make_run(tmp_path / "run", labels=None)
    add_influence(run)
    audit = json.loads((run / "audit.json").read_text())
    audit["influence"] |= {"weights": "paper", "unit": "nats times the batch size"}
    (run / "audit.json").write_text(json.dumps(audit))
    assert "nats times the batch size" in visible(write_report(run))


def test_scores_are_short_and_never_nan():
    assert [influence_score(v) for v in (12.345, -0.0661, 2e-7, np.inf)] == ["12.3", "−0.066", "2×10⁻⁷", "∞"]
    figure = self_influence_against_score(np.arange(40.0), np.arange(40.0)[::-1])
    assert [len(trace.x) for trace in figure.data] == [38, 2] and "self-influence" in figure.data[0].hovertemplate
    assert figure.data[1].y.tolist() == [0, 1]  # the highest scores
