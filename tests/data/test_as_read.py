"""How data were read, in sentences: each with the right numbers, and without names or values if asked."""

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet
from sources import text_file

from genmem.data import load, prepare
from genmem.data.as_read import as_read
from genmem.data.as_read_sets import as_read_sets
from genmem.data.notes import Note, without_names
from genmem.data.three_sets import load_three

SECRETS = ("salary", "diagnosis", "lupus", "birth", "1980", "note", "secret", "patient", "hello", "4711", "v10")


def test_digits_prepared():
    data = prepare(load("digits", subset=300), "bernoulli", 0)
    same = int((data.X == data.X[0]).all(0).sum())
    said = as_read(data)
    assert said == [
        "300 examples of 64 values (images of 8 x 8 pixels), uint8, from 0 to 1.",
        "Values were binarised once, seed 0.",
        f"{same} of 64 values are the same in all examples.",
        said[3],
        "300 of 1,797 examples, drawn at random, seed 0.",
        "As read, values were from 0 to 1.",
    ]
    assert said[3].startswith("10 labels: 0 (")


def test_pixels_before_noise():
    X = np.arange(2 * 64, dtype=np.uint8).reshape(2, 8, 8) + 100
    for likelihood in ("bernoulli", "gaussian"):
        assert as_read(prepare(load(X), likelihood, 0))[-1] == "As read, pixels were from 100 to 227."
    assert "As read" not in " ".join(as_read(prepare(load(X), "discretized_logistic", 0)))


def test_columns_of_few_values_and_constant_ones():
    n = np.arange(60)
    said = as_read(load({"age": n * 1.5, "smoker": n % 2, "kids": n % 5, "all": n * 0 + 3}))
    assert said[1] == "Columns of numbers: age 0 to 88.5; smoker 0 to 1; kids 0 to 4; all 3 to 3."
    assert said[2].startswith("Columns of few values: smoker (2), kids (5). A continuous density")
    assert said[3] == "Columns with one value in all examples: all (3)."
    few = as_read(load({"age": n[:19], "smoker": n[:19] % 2}))
    assert "few values" not in " ".join(few)  # fewer than ten examples for each value


def people(n, work=("nurse", "lupus"), shift=0):
    i = np.arange(n)
    return {
        "patient": [f"p{k}{shift}" for k in i],
        "salary": [4711.5 + k + shift for k in i],
        "diagnosis": [work[k % 2] if k else None for k in i],
        "birth": [f"1980-01-{1 + k % 28:02d}" for k in i],
        "note": [f"hello {k} {shift}" for k in i],
        "smoker": [bool(k % 2) for k in i],
    }


def written(path, columns):
    parquet.write_table(pa.table(columns), path)
    return path


def test_roles_of_a_mixed_table(tmp_path):
    sets = [people(60), people(40), people(30, shift=90_000)]
    texts = []
    for i, table in enumerate(sets):
        rows = [";".join("" if v is None else str(v) for v in row) for row in zip(*table.values(), strict=True)]
        texts.append(text_file(tmp_path / f"secret{i}.csv", "\n".join([";".join(table), *rows]) + "\n"))
    said = as_read_sets(load_three(*texts, id_column="patient"))
    assert said[:3] == ["train: 60 examples of 5 columns.", "test: 40 examples of 5 columns.",
                        "samples: 30 examples of 5 columns."]  # fmt: skip
    assert said[3] == (
        "Columns: salary number 4711.5 to 4770.5 (samples 94711.5 to 94740.5); diagnosis category of 2 values: lupus "
        "(30), nurse (29), 1 gap in train, 1 gap in test, 1 gap in samples; birth date 1980-01-01 to 1980-01-28; note "
        "text, different in nearly every row; smoker true or false; patient names the rows, not compared."
    )
    assert said[4].startswith("Values were encoded: Gower-type distance over 3 columns of numbers (by range) and 2 of")
    redacted = without_names(said)
    assert redacted[3] == (
        "Columns: 1 of numbers, 1 of true or false, 1 of dates, 1 of categories, 1 of text that differs in nearly "
        "every row, 1 of names of rows, not compared; 3 gaps in 1 of them."
    )
    assert any("separated by a semicolon" in note for note in redacted)
    assert not [word for word in SECRETS if word in " ".join(redacted).lower()]


@pytest.mark.parametrize("kind", ["codes", "index", "drop", "folder", "odd"])
def test_no_note_names_anything_if_redacted(tmp_path, kind):
    path, how = tmp_path / "secret.csv", {}
    if kind == "folder":
        path = tmp_path / "secret"
        path.mkdir()
        Image.fromarray(np.zeros((8, 8, 4), np.uint8)).save(path / "patient1.png")
        (path / "lupus.secret").touch()
        (path / "patient2.png").symlink_to(path / "patient1.png")
    elif kind == "drop":
        text_file(path, "patient,a\nx,1\ny,2\n")
        how = {"options": load_options("patient")}
    else:
        first = {"codes": "004711", "index": "0", "odd": "v10"}[kind]
        name = "" if kind == "index" else "diagnosis"
        text_file(path, f"{name},a\n{first},1\n{'1' if kind == 'index' else '12'},2\n3,4\n")
    sets = load_three(path, path, path, **how)
    notes = [note for set_notes in sets.notes.values() for note in set_notes]
    assert notes and all(isinstance(note, Note) for note in notes)
    assert any(word in " ".join(notes).lower() for word in (*SECRETS, "column ''"))
    said = without_names(as_read_sets(sets))
    assert len(said) > 3 and not [word for word in SECRETS if word in " ".join(said).lower()]


def load_options(drop):
    from genmem.data.csv_files import TableOptions

    return TableOptions(drop=(drop,))


def test_sets_of_images_and_numbers_say_their_range():
    X = np.linspace(0, 1, 4 * 64).reshape(4, 8, 8)
    assert as_read_sets(load_three(X, X, X[:2]))[0] == (
        "train, test: 4 examples of 8 x 8 values (images of 8 x 8 pixels), float64, from 0 to 1."
    )
    table = {"a": [0.5, 2.0], "b": [1, 2]}
    said = as_read_sets(load_three(table, table, table))
    assert said[1:] == [
        "Columns: a number 0.5 to 2; b number 1 to 2.",
        "Values are compared as they are: neither scaled nor encoded.",
    ]
