"""The scripts in data/ write what they say, after checking it."""

import gzip
import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from sources import idx_bytes

from genmem.data import fingerprint, load

ROOT = Path(__file__).parents[2]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def script(name):
    spec = importlib.util.spec_from_file_location(f"prepare_{name}", ROOT / "data" / name / "prepare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_digits_script_writes_what_load_returns(tmp_path, capsys):
    assert script("digits").main(["--out", str(tmp_path / "digits.npz")]) == 0
    data = load(tmp_path / "digits.npz", array="x", label_array="y")
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "digits.npz")
    assert fingerprint(data.X) == fingerprint(load("digits").X)
    np.testing.assert_array_equal(data.labels, load("digits").labels)
    assert fingerprint(data.X) in (ROOT / "data" / "digits" / "README.md").read_text()


@pytest.fixture
def small_mnist(rng):
    shapes = {"x_train": (6, 28, 28), "y_train": (6,), "x_test": (3, 28, 28), "y_test": (3,)}
    return {name: rng.integers(0, 10, size=shape, dtype=np.uint8) for name, shape in shapes.items()}


@pytest.fixture
def mnist_script(small_mnist, monkeypatch):
    """The script, told that the small arrays are the right ones."""
    module = script("mnist")
    sums = {name: hashlib.md5(idx_bytes(array)).hexdigest() for name, array in small_mnist.items()}
    monkeypatch.setattr(module, "MD5", sums)
    return module


def idx_files(folder, arrays, zipped=()):
    paths = []
    for name, array in arrays.items():
        content = idx_bytes(array)
        paths.append(folder / f"{name}-idx-ubyte{'.gz' if name in zipped else ''}")
        paths[-1].write_bytes(gzip.compress(content) if name in zipped else content)
    return [str(path) for path in paths]


def test_mnist_script_from_idx_files_in_any_order(tmp_path, small_mnist, mnist_script, capsys):
    files = idx_files(tmp_path, small_mnist, zipped=("x_train", "y_test"))
    out = tmp_path / "mnist.npz"
    assert mnist_script.main([*files[::-1], "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    data = load(out, array="x_train", label_array="y_train")
    np.testing.assert_array_equal(data.X, small_mnist["x_train"])
    np.testing.assert_array_equal(data.labels, small_mnist["y_train"])
    again = tmp_path / "again.npz"
    assert mnist_script.main([str(out), "--out", str(again)]) == 0
    with np.load(again) as stored:
        assert {name: stored[name].tolist() for name in stored} == {n: a.tolist() for n, a in small_mnist.items()}


def test_mnist_script_refuses_other_contents(tmp_path, small_mnist, mnist_script, capsys):
    out = tmp_path / "mnist.npz"

    def fails(message, *arguments):
        assert mnist_script.main([*arguments, "--out", str(out)]) == 2
        assert message in capsys.readouterr().err
        assert not out.exists()

    files = idx_files(tmp_path, small_mnist)
    fails("y_test", *files[:3])
    fails("No such file", *files[:3], str(tmp_path / "missing"))
    changed = {**small_mnist, "x_test": small_mnist["x_test"] + 1}
    fails(hashlib.md5(idx_bytes(changed["x_test"])).hexdigest(), *idx_files(tmp_path, changed))
    np.savez(tmp_path / "changed.npz", **changed)
    fails("x_test", str(tmp_path / "changed.npz"))
    np.savez(tmp_path / "part.npz", x_train=small_mnist["x_train"])
    fails("y_train", str(tmp_path / "part.npz"))


def test_mnist_script_knows_the_published_checksums(tmp_path, small_mnist):
    module, readme = script("mnist"), (ROOT / "data" / "mnist" / "README.md").read_text()
    assert set(module.MD5) == set(small_mnist)
    assert all(md5 in readme for md5 in module.MD5.values())
    assert module.main([*idx_files(tmp_path, small_mnist), "--out", str(tmp_path / "mnist.npz")]) == 2
