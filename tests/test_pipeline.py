"""`genmem.audit` from Python: what it leaves on disk, and what it makes of the data it is given."""

import json
from importlib.resources import files

import jsonschema
import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.neighbors import KernelDensity

import genmem
from genmem import stages
from genmem.errors import DataError, ModelError, RunMismatchError
from genmem.leaveout import memorization_score
from genmem.leaveout.posterior import scored_log_probs
from genmem.models import VAE
from genmem.run import Run

QUICK = {"folds": 3, "repeats": 3, "epochs": 4, "settings": {"hidden": [8], "latent_dim": 2}}


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """An audit of 150 digits."""
    return genmem.audit("digits", out=tmp_path_factory.mktemp("runs") / "digits", subset=150, **QUICK)


@pytest.mark.slow
def test_scores_are_those_of_the_refits(audited):
    run = Run.open(audited.path)
    splits = run.splits()
    expected = memorization_score(scored_log_probs(run), splits.held_out, repeat=splits.repeat)
    table = pq.read_table(audited.path / "scores.parquet")
    named = ["index", "label", "score", "log_prob_in", "log_prob_out", "standard_error", "p_value", "q_value"]
    assert table.column_names == [*named, "decoder_part", "encoder_part", "identified", "expected_score"]
    for name in named[2:]:
        np.testing.assert_allclose(table[name].to_numpy(), getattr(expected, name))
    data = genmem.load("digits")
    index = table["index"].to_numpy()
    np.testing.assert_array_equal(table["label"].to_numpy(), data.labels[index])
    np.testing.assert_array_equal(run.data().X, data.X[index])


@pytest.mark.slow
def test_audit_json_keeps_its_schema(audited):
    schema = json.loads(files("genmem.report").joinpath("audit.schema.json").read_text())
    summary = json.loads((audited.path / "audit.json").read_text())
    jsonschema.validate(summary, schema, format_checker=jsonschema.FormatChecker())
    assert summary == audited.summary
    assert summary["data"]["source"] == "digits" and summary["data"]["n"] == 150
    assert summary["asked"]["design"]["folds"] == 3 and summary["asked"]["score_epochs"][-1] == 4
    assert {f["id"] for f in summary["findings"]} >= {"mean_score", "flagged_share", "tail_score", "neediest_label"}
    assert set(summary["wall_time"]) >= {"plan", "refit", "fit", "score", "neighbors", "regions", "total"}


@pytest.mark.slow
def test_findings_hold_the_numbers(audited):
    scores = audited.scores
    found = {f["id"]: f for f in audited.findings}
    assert found["mean_score"]["value"] == pytest.approx(scores.score.mean())
    per_repeat = scores.per_repeat.mean(1)
    assert found["mean_score"]["standard_error"] == pytest.approx(per_repeat.std(ddof=1) / np.sqrt(3))
    assert found["flagged_share"]["value"] == pytest.approx((scores.q_value < 0.05).mean())
    labels = Run.open(audited.path).data().labels
    means = {str(c): scores.score[labels == c].mean() for c in np.unique(labels)}
    groups = {g["name"]: g for g in audited.summary["groups"] if g["kind"] == "label"}
    for name, mean in means.items():
        assert groups[name]["mean"] == pytest.approx(mean)
    assert found["neediest_label"]["value"] == pytest.approx(max(means.values()))


@pytest.mark.slow
def test_membership_findings_are_those_of_the_matrix(audited):
    run = Run.open(audited.path)
    splits, found = run.splits(), {f["id"]: f for f in audited.findings}
    attack = genmem.membership_attack(run.log_probs(), splits.held_out, splits.repeat, seed=run.seed)
    assert found["membership_auc"]["value"] == attack.auc.value
    assert found["membership_auc"]["interval"] == pytest.approx(list(attack.auc.interval))
    assert f"{attack.log_prob.auc.value:.2f}" in found["membership_auc"]["sentence"]
    bound = found["epsilon_bound"]
    assert bound["value"] == attack.epsilon and "only approximate" in bound["sentence"]
    assert "membership_tpr" not in found  # 450 pairs of a refit and a held-out example are too few for 1%
    assert np.isnan(pq.read_table(audited.path / "scores.parquet")["identified"].to_numpy()).all()


@pytest.mark.slow
def test_neighbours_are_the_nearest(audited):
    run = Run.open(audited.path)
    near, X = run.result("neighbors"), np.asarray(run.data().X, float)
    worst = near["most"][0]
    assert worst == audited.scores.score.argmax()
    distance = np.linalg.norm(X - X[worst], axis=1)
    distance[worst] = np.inf
    np.testing.assert_array_equal(near["most_neighbors"][0], np.argsort(distance, kind="stable")[:5])
    np.testing.assert_allclose(near["most_distances"][0], np.sort(distance)[:5])


@pytest.mark.slow
def test_trajectory_ends_with_the_scores(audited):
    run = Run.open(audited.path)
    path = run.result("trajectory")
    assert path["epochs"].tolist() == list(run.score_epochs)
    through_the_encoder = memorization_score(run.log_probs(), run.splits().held_out, repeat=run.splits().repeat)
    assert path["mean_score"][-1] == pytest.approx(through_the_encoder.score.mean())
    np.testing.assert_allclose(path["score_quantiles"][-1], np.quantile(through_the_encoder.score, path["levels"]))
    assert path["mean_in"][-1] > path["mean_in"][0]


@pytest.mark.slow
def test_everything_is_stored_for_later_questions(audited):
    from genmem.training.trajectory import load_trajectory

    trajectory = load_trajectory(audited.path / "trajectory")
    assert [c.epoch for c in trajectory] == [0, 1, 2, 3, 4]
    assert Run.open(audited.path).result("latents")["mean"].shape == (150, 2)
    assert audited.report.read_text().startswith("<!doctype html>") or "<html" in audited.report.read_text()[:200]


@pytest.mark.slow
def test_again_is_the_same_and_other_settings_are_refused(audited):
    again = genmem.audit("digits", out=audited.path, subset=150, **QUICK)
    np.testing.assert_array_equal(again.scores.score, audited.scores.score)
    with pytest.raises(RunMismatchError, match="latent_dim=3"):
        genmem.audit("digits", out=audited.path, subset=150, **{**QUICK, "settings": {"hidden": [8], "latent_dim": 3}})
    with pytest.raises(RunMismatchError, match="repeats=4"):
        genmem.audit("digits", out=audited.path, subset=150, **{**QUICK, "repeats": 4})


@pytest.mark.slow
def test_arrays_and_estimators_from_python(tmp_path, blobs):
    X, y = blobs
    model = VAE(hidden=[8], latent_dim=2, epochs=3)
    found = genmem.audit(X, model, out=tmp_path / "r", labels=y, folds=3, repeats=1)
    assert np.isnan(found.scores.standard_error).all()
    assert "One repeat" in " ".join(found.summary["limitations"])
    assert np.isnan([found.scores.p_value, found.scores.q_value]).all()
    assert "flagged_share" not in {f["id"] for f in found.findings}
    assert "genmem.audit(X, model=VAE(" in found.summary["asked"]["python"]
    opened = Run.open(tmp_path / "r")
    assert opened.plan["model"]["params"]["latent_dim"] == 2
    stages.refit(opened)  # rebuilt from the plan alone


@pytest.mark.slow
def test_a_density_of_scikit_learn(tmp_path, blobs):
    found = genmem.audit(blobs[0], KernelDensity(bandwidth=0.8), out=tmp_path / "r", folds=3, repeats=2)
    assert found.summary["environment"]["refit_method"] == "fit"
    assert found.summary["asked"]["importance_samples"] is None
    assert (found.scores.score > 0).mean() > 0.9


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The reliability:UserWarning")
def test_a_planned_audit_is_announced_before_its_refits(tmp_path, blobs):
    seen = []
    asked = {"folds": 3, "repeats": 2, "target_reliability": 0.99}
    announce = lambda run: seen.append((run.splits().n_repeats, run.repeats, list(run.path.glob("shards/*"))))  # noqa: E731
    found = genmem.audit(blobs[0], KernelDensity(bandwidth=0.8), out=tmp_path / "r", **asked, announce=announce)
    assert seen == [(6, 2, [])]  # three times as many repeats may be added
    line = found.summary["asked"]["python"]
    assert "repeats=2, target_reliability=0.99)" in line and "max_repeats" not in line


@pytest.mark.slow
def test_grey_images_are_binarised_once(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, (60, 8, 9), dtype=np.uint8)
    run = stages.plan(X, out=tmp_path / "r", **QUICK)
    kept = np.asarray(run.data().X)
    assert set(np.unique(kept)) == {0, 1} and kept.shape == X.shape
    assert run.plan["model"]["params"]["likelihood"] == "bernoulli"
    assert "binarised" in run.plan["data"]["preparation"]
    np.testing.assert_array_equal(kept, stages.plan(X, out=tmp_path / "again", **QUICK).data().X)


@pytest.mark.slow
def test_colour_images_are_dequantised_once(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, (60, 8, 9, 3), dtype=np.uint8)
    run = stages.plan(X, out=tmp_path / "r", **QUICK)
    kept = np.asarray(run.data().X)
    np.testing.assert_array_equal(np.floor(kept * 256), X)
    assert run.plan["model"]["params"]["likelihood"] == "logit_normal"


@pytest.mark.slow
def test_constant_columns_are_reported_and_left_out(tmp_path, blobs):
    X = np.insert(blobs[0], 2, 5.0, axis=1)
    found = genmem.audit(X, out=tmp_path / "r", **QUICK)
    assert found.summary["data"]["constant_columns"] == [2]
    (check,) = [c for c in found.summary["checks"] if c["id"] == "constant_columns"]
    assert check["value"] == 1 and "2" in check["sentence"]
    assert np.isfinite(found.scores.score).all()


@pytest.mark.slow
def test_refits_of_several_versions_are_reported(tmp_path, blobs, monkeypatch):
    found = genmem.audit(blobs[0], out=tmp_path / "r", **QUICK)
    said = found.summary["environment"]["versions"]
    assert said["torch"] and not any("versions" in text for text in found.summary["limitations"])
    Run.open(found.path).shard_path(0).unlink()
    monkeypatch.setattr("genmem.leaveout.worker.versions", lambda: {**said, "torch": "99.0"})
    again = genmem.audit(blobs[0], out=tmp_path / "r", **QUICK)
    assert any("99.0" in text and said["torch"] in text for text in again.summary["limitations"])


@pytest.mark.slow
def test_duplicates_are_reported(tmp_path, blobs):
    X = np.concatenate([blobs[0], blobs[0][:3]])
    found = genmem.audit(X, out=tmp_path / "r", **QUICK)
    assert found.summary["data"]["duplicates"] == 6
    twins = Run.open(found.path).result("neighbors")["duplicate_of"]
    assert twins[:3].tolist() == [120, 121, 122] and twins[120:].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"folds": 121}, DataError, "folds"),
        ({"labels": [1, 2]}, DataError, "120"),
        ({"subset": 121}, DataError, "121"),
        ({"settings": {"latent": 3}}, ModelError, "latent_dim"),
        ({"score_epochs": [9]}, ModelError, "between 0 and 4"),
        ({"estimator": "median"}, DataError, "mean_log"),
        ({"model": 3}, ModelError, "density"),
        ({"model": VAE}, ModelError, "a class"),
        ({"importance_samples": 0}, DataError, "importance"),
        ({"repeats": 0}, DataError, "repeats"),
        ({"seed": -1}, DataError, "seed"),
        ({"folds": 2.5}, DataError, "folds"),
        ({"folds": 5, "fraction": 0.7}, DataError, "Omit folds"),
        ({"seed": "a"}, DataError, "seed"),
        ({"model": VAE(), "settings": {"latent": 3}}, ModelError, "latent"),
        ({"settings": {"constants": "abc"}}, ModelError, "constants"),
        pytest.param({"lanes": 0}, ModelError, "lanes", marks=pytest.mark.slow),
    ],
)
def test_what_cannot_be_audited_is_said(tmp_path, blobs, changes, error, message):
    arguments = {**QUICK, "model": "vae", **changes}
    with pytest.raises(error, match=message):
        genmem.audit(blobs[0], out=tmp_path / "r", **arguments)


@pytest.mark.slow
def test_the_smallest_audit(tmp_path):
    found = genmem.audit(np.array([[0.0, 1.0], [1.0, 0.0]]), out=tmp_path / "r", **{**QUICK, "folds": 2})
    assert np.isfinite(found.scores.score).all()
