"""What the stage makes of influence: latent distances, computing again, and the page that explains it."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import genmem
from genmem import stages
from genmem.findings.influence import find_influence, latent_distance
from genmem.run import Run
from genmem.stages import _attribution
from genmem_cli.main import run as cli

PAGE = Path(__file__).parents[2] / "docs" / "influence.md"
QUICK = {"folds": 2, "repeats": 2, "settings": {"hidden": [8], "latent_dim": 2, "epochs": 3}}
ASKED = {"draws": 2, "samples": 2, "queries": 2, "k": 2}


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    return genmem.audit("digits", out=tmp_path_factory.mktemp("runs") / "plain", subset=60, **QUICK).path


@pytest.fixture
def copied(audited, tmp_path):
    return Run.open(shutil.copytree(audited, tmp_path / "copy"))


# --- latent distances


def lists(proponents, scores, opponents, opponent_scores, examples):
    return {
        "checked": np.array([examples[0]]),
        "examples": np.array(examples),
        "checked_proponents": np.array([proponents]),
        "checked_proponent_scores": np.array([scores], float),
        "checked_opponents": np.array([opponents]),
        "checked_opponent_scores": np.array([opponent_scores], float),
    }


def test_latent_distances_are_shares_of_the_others():
    means = np.array([[0.0], [9.0], [1.0], [2.0], [99.0], [4.0], [-4.0]])  # of 7 examples, the one at 9 is left out
    found = lists([0, 2, 3, 4], [9, 5, 4, -1], [6, 0, -1], [-3, -2, -9], [0, 2, 3, 4, 5, 6])
    near, far = latent_distance(found, means)
    assert near.value == pytest.approx((0 + 1) / 2 / 4)  # of 2, 3, 4, 5, 6: none closer than 2, one than 3
    assert far.value == pytest.approx(2.5 / 4)  # 2, 3, and as near as 5
    assert near.null == far.null == 0.5 and near.n == 1
    assert "in the closest 12% of all examples" in near.sentence and "5 strongest opponents rank" in far.sentence


def test_random_proponents_lie_at_one_half():
    rng = np.random.default_rng(0)
    n, means = 40, rng.normal(size=(40, 3)).round(1)  # with ties
    strongest = np.array([rng.permutation(np.delete(np.arange(n), q))[:5] for q in range(n)])
    found = {"checked": np.arange(n), "examples": np.arange(n)}
    for side, sign in (("proponent", 1.0), ("opponent", -1.0)):
        found |= {f"checked_{side}s": strongest, f"checked_{side}_scores": np.full((n, 5), sign)}
    means[:10] = means[0]
    for said in latent_distance(found, means):
        assert said.value == pytest.approx(0.5, abs=4 * said.standard_error) and said.n == n
        low, high = said.interval
        assert 0 <= low < 0.5 < high <= 1
    near = [np.argsort(np.linalg.norm(means - means[q], axis=1), kind="stable") for q in range(n)]
    found["checked_proponents"] = np.array([order[order != q][:5] for q, order in enumerate(near)])
    assert latent_distance(found, means)[0].value < 0.15


def test_without_proponents_there_is_nothing_to_say():
    found = lists([0], [1.0], [-1], [-1.0], [0, 1, 2])
    assert all(np.isnan(said.value) and said.n == 0 for said in latent_distance(found, np.zeros((3, 2))))


@pytest.mark.slow
def test_a_run_with_an_encoder_has_them(copied):
    stages.influence(copied, **ASKED)
    said = {f.id: f for f in find_influence(copied)}
    arrays, means = copied.result("influence"), copied.result("latents")["mean"]
    values = []
    for query, proponents, scores in zip(
        arrays["checked"], arrays["checked_proponents"], arrays["checked_proponent_scores"], strict=True
    ):
        kept = [p for p, s in zip(proponents, scores, strict=True) if p != query and s > 0][:5]
        away = np.linalg.norm(means - means[query], axis=1)
        others = [i for i in range(len(means)) if i != query]
        values += [np.mean([np.mean([away[i] < away[p] for i in others if i != p]) for p in kept])] if kept else []
    assert said["latent_distance"].value == pytest.approx(np.mean(values), abs=1e-6)
    against = (arrays["checked_opponents"] != arrays["checked"][:, None]) & (arrays["checked_opponent_scores"] < 0)
    assert ("latent_distance_opponents" in said) == against.any()  # hardly any after so little training


# --- computing again


@pytest.mark.slow
def test_recompute_forgets_what_is_there(copied, monkeypatch):
    first = stages.influence(copied, **ASKED)
    before = copied.result("influence")
    (sums,) = (copied.path / "influence").iterdir()
    for file in sums.glob("*/*.npz"):
        file.write_bytes(b"damaged")
    asked = []
    whole = _attribution.way_of
    monkeypatch.setattr("genmem.stages._influence.way_of", lambda *how: asked.append(1) or whole(*how))
    assert stages.influence(copied, **ASKED) == first and not asked
    assert stages.influence(copied, **ASKED, recompute=True) == first and asked
    for name, values in copied.result("influence").items():
        np.testing.assert_array_equal(values, before[name], err_msg=name)


@pytest.mark.slow
def test_the_command_recomputes(copied, capsys):
    asked = ["influence", str(copied.path), *"--draws 2 --samples 1 --queries 1 --k 1".split()]
    assert cli(asked) == 0
    (copied.path / "results" / "influence.npz").unlink()
    assert cli([*asked, "--recompute"]) == 0
    assert copied.has_result("influence")
    assert capsys.readouterr().out.splitlines()[-1] == str(copied.path)


# --- the page


@pytest.mark.slow
def test_the_block_of_the_page_runs(audited, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(audited, tmp_path / "runs" / "digits-vae")
    code = next(
        code for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL) if "arrays" in code
    )
    namespace = {}
    exec(compile(code, str(PAGE), "exec"), namespace)
    assert len(namespace["arrays"]["samples_proponents"]) == 8
    assert namespace["top"].proponents.shape == (3, 2)
