"""Folders of files: links, what is skipped, and the order of numbered names."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genmem.data.folders import files_below, in_order
from genmem.errors import DataError


def is_wanted(name):
    return name.endswith(".png")


def files_in(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_numbers_in_names_are_compared_as_numbers():
    names = ["a/10.png", "a/2.png", "b/1.png", "a/1.png"]
    assert in_order(names) == ["a/1.png", "a/2.png", "a/10.png", "b/1.png"]
    assert in_order(["x10y3", "x2y10", "x2y9", "x10y20"]) == ["x2y9", "x2y10", "x10y3", "x10y20"]
    hashes = ["9fcd.png", "12ab.png", "3f2a.png", "f00d.png"]
    assert in_order(hashes) == sorted(hashes)


@given(st.sets(st.integers(0, 10**6), min_size=1))
def test_the_order_is_that_of_the_numbers(numbers):
    """However many digits; and padded names are in the order of their text, as they always were."""
    names = [f"image {number}.png" for number in sorted(numbers)]
    assert in_order(set(names)) == names
    padded = [f"{number:07}.png" for number in numbers]
    assert in_order(padded) == sorted(padded)


@given(st.lists(st.text("ab-_./", min_size=1), unique=True))
def test_names_without_numbers_are_in_the_order_of_their_text(names):
    assert in_order(names) == sorted(names)


def test_links_are_followed(tmp_path):
    files_in(tmp_path, "pool/1.png", "pool/2.png", "set/a/1.png")
    (tmp_path / "set" / "b").symlink_to(tmp_path / "pool")
    (tmp_path / "set" / "a" / "2.png").symlink_to("1.png")
    found = files_below(tmp_path / "set", is_wanted)
    assert found.names == ["a/1.png", "a/2.png", "b/1.png", "b/2.png"]
    assert found.notes() == (
        "2 symbolic links followed: a/2.png, b.",
        "1 file read again under another name: a/2.png.",
    )


@pytest.mark.parametrize("target", [".", "..", "sub"])
def test_links_that_lead_back_are_refused(tmp_path, target):
    files_in(tmp_path, "set/1.png", "set/sub/1.png")
    (tmp_path / "set" / "sub" / "loop").symlink_to(tmp_path / "set" / target)
    with pytest.raises(DataError, match=r"sub/loop.*, which leads back to .*set.*Remove this link"):
        files_below(tmp_path / "set", is_wanted)


def test_a_link_to_nothing_is_refused(tmp_path):
    (tmp_path / "1.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"1.png, which leads to .*gone.png, where nothing is"):
        files_below(tmp_path, is_wanted)


def test_skipped_files_are_counted_with_reasons(tmp_path):
    files_in(tmp_path, "1.png", *(f"{i}.txt" for i in range(5)), "README", ".x.png", ".cache/2.png", "b.TXT")
    os.mkfifo(tmp_path / "pipe.png")
    found = files_below(tmp_path, is_wanted)
    assert found.names == ["1.png"]
    assert found.notes() == (
        "10 files skipped: 6 .txt (0.txt, 1.txt, 2.txt and 3 more), 2 hidden (.cache, .x.png), "
        "1 neither file nor folder (pipe.png), 1 without a suffix (README).",
    )
