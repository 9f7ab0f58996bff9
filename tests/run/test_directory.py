"""A run directory: planned once, refuses other plans, knows what is missing."""

import json

import numpy as np
import pytest
from sklearn.neighbors import KernelDensity

import genmem
from genmem.data import load
from genmem.errors import IncompleteRunError, ModelError, RunError, RunMismatchError
from genmem.models import VAE
from genmem.run import Run, Splits
from genmem.run.plan import refuse_other_plan


def create(path, X, model=None, seed=0, folds=2, repeats=1, **changes):
    model = model or VAE(hidden=[4], latent_dim=2, epochs=2, constants=[])
    splits = Splits.k_fold(len(X), folds, repeats, seed)
    return Run.create(path, model=model, data=load(X), splits=splits, seed=seed, **changes)


def fill(run, i, value=0.0):
    run.write_shard(i, log_probs=np.full((1, len(run.score_epochs), run.splits().n), value, np.float32))


def test_what_is_planned_comes_back(tmp_path, blobs):
    X, labels = blobs
    data = load(X, labels=labels)
    splits = Splits.k_fold(len(X), 4, 2, 7)
    Run.create(tmp_path / "r", model=VAE(latent_dim=3), data=data, splits=splits, seed=7, score_epochs=(1, 5))
    run = Run.open(tmp_path / "r")
    np.testing.assert_array_equal(run.data().X, X)
    np.testing.assert_array_equal(run.data().labels, labels)
    np.testing.assert_array_equal(run.splits().held_out, splits.held_out)
    assert (run.seed, run.score_epochs, run.importance_samples) == (7, (1, 5), 64)
    assert run.plan["model"]["params"]["latent_dim"] == 3
    assert run.plan["splits"]["kind"] == "k_fold"


def test_same_plan_opens_and_keeps_what_is_there(tmp_path, blobs):
    run = create(tmp_path / "r", blobs[0])
    fill(run, 0)
    assert create(tmp_path / "r", blobs[0]).pending() == [1]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"model": VAE(hidden=[4], latent_dim=9, epochs=2, constants=[])}, "latent_dim=9"),
        ({"seed": 1}, "=1"),
        ({"folds": 4}, "folds=4"),
        ({"score_epochs": (1, 2)}, "score_epochs"),
        ({"importance_samples": 8}, "importance_samples=8"),
    ],
)
def test_another_plan_is_refused_by_name(tmp_path, blobs, changes, key):
    fill(create(tmp_path / "r", blobs[0]), 0)
    with pytest.raises(RunMismatchError, match=key):
        create(tmp_path / "r", blobs[0], **changes)


def test_other_data_are_refused(tmp_path, blobs):
    fill(create(tmp_path / "r", blobs[0]), 0)
    with pytest.raises(RunMismatchError, match="give the same data again"):
        create(tmp_path / "r", blobs[0] + 1)


def test_a_plan_nothing_was_computed_for_gives_way(tmp_path, blobs):
    create(tmp_path / "r", blobs[0])
    again = create(tmp_path / "r", blobs[0][:50], seed=3)
    opened = Run.open(tmp_path / "r")
    assert opened.seed == again.seed == 3 and opened.splits().n == len(opened.data().X) == 50


def test_pending_are_the_missing_shards(tmp_path, blobs):
    run = create(tmp_path / "r", blobs[0])
    assert run.pending() == run.shards() == [0, 1]
    fill(run, 1, 2.0)
    assert run.pending() == [0]
    with pytest.raises(IncompleteRunError, match="genmem refit"):
        run.log_probs()
    fill(run, 0, 1.0)
    np.testing.assert_array_equal(run.log_probs()[:, 0], [1, 2])


def test_damaged_shards_are_named_and_recomputed_on_request(tmp_path, blobs):
    run = create(tmp_path / "r", blobs[0])
    fill(run, 0)
    fill(run, 1)
    damaged = run.shard_path(1)
    damaged.write_bytes(damaged.read_bytes()[:-40])
    with pytest.raises(RunError, match=r"0001\.npz.*--recompute"):
        run.pending()
    assert run.drop_damaged() == [damaged]
    assert run.pending() == [1]


def test_a_shard_of_another_run_is_refused(tmp_path, blobs):
    one, other = create(tmp_path / "a", blobs[0]), create(tmp_path / "b", blobs[0], seed=1)
    fill(one, 0)
    fill(other, 0)
    one.shard_path(0).write_bytes(other.shard_path(0).read_bytes())
    with pytest.raises(RunError, match="this plan"):
        one.pending()


def test_a_shard_of_another_index_is_refused(tmp_path, blobs):
    run = create(tmp_path / "r", blobs[0])
    fill(run, 0)
    run.shard_path(1).write_bytes(run.shard_path(0).read_bytes())
    with pytest.raises(RunError, match=r"0001\.npz"):
        run.pending()


def test_changed_examples_are_noticed(tmp_path, blobs):
    run = create(tmp_path / "r", blobs[0])
    np.save(run.path / "data" / "X.npy", np.asarray(run.data().X) + 1)
    with pytest.raises(RunError, match="other values"):
        run.data()


def test_missing_splits_are_named(tmp_path, blobs):
    run = create(tmp_path / "r", blobs[0])
    (run.path / "splits.npz").unlink()
    with pytest.raises(RunError, match=r"splits\.npz"):
        run.pending()


def test_a_folder_of_the_users_is_left_alone(tmp_path, blobs):
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data" / "X.npy", np.arange(3))
    with pytest.raises(RunError, match="another --out"):
        create(tmp_path, blobs[0])
    np.testing.assert_array_equal(np.load(tmp_path / "data" / "X.npy"), np.arange(3))


def test_damaged_results_are_dropped_on_request(tmp_path, blobs):
    run = create(tmp_path / "r", blobs[0])
    run.write_result("latents", mean=np.zeros((120, 2)))
    file = run.path / "results" / "latents.npz"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(RunError, match="--recompute"):
        run.result("latents")
    assert run.drop_damaged() == [file] and not run.has_result("latents")


def test_not_a_run_directory(tmp_path, blobs):
    with pytest.raises(RunError, match="genmem plan"):
        Run.open(tmp_path / "nowhere")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(RunError, match=r"thesis\.tex.*another --out"):
        create(tmp_path / "mine", blobs[0])
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="Choose another --out"):
        create(tmp_path / "file", blobs[0])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model": 1}'])
def test_a_damaged_plan_is_named(tmp_path, blobs, text):
    create(tmp_path / "r", blobs[0])
    (tmp_path / "r" / "run.json").write_text(text)
    with pytest.raises(RunError, match=r"run\.json"):
        Run.open(tmp_path / "r")


def test_a_plan_cut_short_is_planned_again(tmp_path, blobs):
    run = create(tmp_path / "r", blobs[0])
    (run.path / "run.json").unlink()
    assert create(tmp_path / "r", blobs[0]).pending() == [0, 1]


def test_damaged_data_are_named(tmp_path, blobs):
    run = create(tmp_path / "r", blobs[0])
    (run.path / "data" / "X.npy").write_bytes(b"not an array")
    with pytest.raises(RunError, match="data"):
        run.data()


def test_parameters_must_fit_the_plan(tmp_path, blobs):
    with pytest.raises(ModelError, match="'atol'"):
        create(tmp_path / "r", blobs[0], model=KernelDensity(atol=object()))
    with pytest.raises(ModelError, match="get_params"):
        create(tmp_path / "s", blobs[0], model=object())


def test_results_come_back_and_missing_ones_name_their_stage(tmp_path, blobs):
    run = create(tmp_path / "r", blobs[0])
    run.write_result("scores", score=np.arange(3.0))
    np.testing.assert_array_equal(run.result("scores")["score"], [0, 1, 2])
    with pytest.raises(IncompleteRunError, match="genmem neighbors"):
        run.result("neighbors")


def test_probe_is_recorded_once(tmp_path, blobs):
    run = create(tmp_path / "r", blobs[0])
    other = Run.open(run.path)
    run.set_probe({"method": "lanes", "lanes": 5, "device": "cpu"})
    other.set_probe({"method": "loop", "lanes": 1, "device": "cpu"})
    assert other.probe == {"method": "lanes", "lanes": 5, "device": "cpu"}
    assert json.loads((run.path / "run.json").read_text())["probe"]["method"] == "lanes"
    assert genmem.Run.open(run.path).probe["method"] == "lanes"


def test_weights_live_in_a_file_of_their_own(tmp_path, blobs):
    run = create(tmp_path / "r", blobs[0])
    weights = {"encoder.weight": np.ones((1, 2, 3), np.float32), "log_variance": np.zeros(1, np.float32)}
    run.write_shard(0, log_probs=np.zeros((1, 1, 120)), **{f"weights/{name}": w for name, w in weights.items()})
    assert {name: w.tolist() for name, w in run.weights(0).items()} == {n: w.tolist() for n, w in weights.items()}
    with np.load(run.shard_path(0)) as stored:
        assert set(stored.files) == {"log_probs", "has_weights", "checksum"}
    with pytest.raises(IncompleteRunError, match=r"0001\.safetensors.*genmem refit"):
        run.weights(1)
    run.weights_path(1).write_bytes(run.weights_path(0).read_bytes())
    with pytest.raises(RunError, match=r"0001\.safetensors.*this plan"):
        run.weights(1)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["kde", "flow", "vae"])
def test_changed_data_are_blamed_and_not_the_settings_that_suit_them(tmp_path, model):
    X = np.random.default_rng(0).normal(size=(40, 3))
    changed, constant = X.copy(), X.copy()
    changed[3, 1] += 0.5
    constant[:, 1] = 1.0
    run = genmem.stages.plan(X, model, tmp_path, folds=2, repeats=1)
    others = {"sha256": [changed, constant], "n": [X[:-1]], "event_shape": [X[:, :2]]}
    for key, Y in ((key, Y) for key, several in others.items() for Y in several):
        other = genmem.stages.plan(Y, model, tmp_path / f"{key}{Y.sum()}", folds=2, repeats=1).plan
        with pytest.raises(RunMismatchError, match=f"data.{key}=.*give the same data again"):
            refuse_other_plan(run.plan, other)
    if model != "vae":
        return
    asked = genmem.stages.plan(X, model, tmp_path / "asked", folds=2, repeats=1, settings={"latent_dim": 3}).plan
    with pytest.raises(RunMismatchError, match="latent_dim=3"):
        refuse_other_plan(run.plan, asked)
