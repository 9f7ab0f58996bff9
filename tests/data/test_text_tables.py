"""Text tables as other tools write them: separators, marks, gaps, codes and indices are read as they were meant."""

import csv
import gzip

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as some
from pyarrow import parquet
from sources import refused, text_file

from genmem.data import load
from genmem.data.as_read import as_read
from genmem.data.three_sets import load_three

NUMBERS = np.array([[1.5, 2.0], [3.0, -4.25], [5.75, 6.5]])


def written(path, sep=",", decimal=".", names=("a", "b"), rows=NUMBERS, **how):
    lines = [names, *([f"{value}".replace(".", decimal) for value in row] for row in rows)]
    with (gzip.open if path.suffix == ".gz" else open)(path, "wt", newline="", **how) as file:
        csv.writer(file, delimiter=sep).writerows(lines)
    return path


@pytest.mark.parametrize(("sep", "name"), [(";", "semicolon"), ("\t", "tab"), ("|", "bar")])
@pytest.mark.parametrize("decimal", [".", ","])
@pytest.mark.parametrize("end", ["csv", "tsv", "csv.gz", "TSV", "tab"])
def test_separators_and_marks_are_detected_and_told(tmp_path, sep, name, decimal, end):
    data = load(written(tmp_path / f"t.{end}", sep, decimal))
    np.testing.assert_array_equal(data.X, NUMBERS.astype(np.float32))
    assert data.columns == ("a", "b") and f"separated by a {name}" in " ".join(data.notes)
    assert ("decimal comma" in " ".join(data.notes)) == (decimal == ",")


def test_a_decimal_comma_between_commas_needs_quotes(tmp_path):
    data = load(written(tmp_path / "t.csv", ",", ","), decimal=",")
    np.testing.assert_array_equal(data.X, NUMBERS.astype(np.float32))
    refused(r"a \(string: numbers with a decimal comma such as '1,5'", written(tmp_path / "t.csv", ",", ","))


def test_options_override_what_is_detected(tmp_path):
    path = text_file(tmp_path / "t.csv", "a:b\n1:2\n-9:4\n5:6\n")
    np.testing.assert_array_equal(load(path, sep=":").X, [[1, 2], [-9, 4], [5, 6]])
    refused("1 missing, the first in row 1", path, sep=":", na="-9")
    refused("sep to be one character", path, sep="::")
    refused("decimal to be one character", path, decimal=";")
    parquet.write_table(pa.table({"a": [1.0, 2.0]}), tmp_path / "t.parquet")
    refused("sep only with text tables", tmp_path / "t.parquet", sep=";")
    np.save(tmp_path / "t.npy", NUMBERS)
    refused("sep only with text tables", tmp_path / "t.npy", sep=";")
    refused("sep only with", NUMBERS, sep=";")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_encodings(tmp_path, encoding):
    path = tmp_path / "t.csv"
    path.write_bytes("größe,b\n1,2\n3,4\n".encode(encoding))
    data = load(path)
    assert data.columns == ("größe", "b") and data.X.tolist() == [[1, 2], [3, 4]]
    assert bool(data.notes) == (encoding in ("utf-16", "cp1252"))


@pytest.mark.parametrize("gap", ["", "NA", "NaN", "nan", "null", "NULL", "N/A", "#N/A", "None", "<NA>"])
def test_gaps_are_alike_in_columns_of_numbers_and_of_text(tmp_path, gap):
    path = text_file(tmp_path / "t.csv", f"a,b\n1,x\n{gap},{gap}\n3,y\n")
    values = load_three(path, path, path).values[0]
    assert np.isnan(values[1][0]) and values[1][1] is None


# --- types over all sets


def said_of(sets):
    return [note for notes in sets.notes.values() for note in notes]


def three(tmp_path, *texts, **how):
    return load_three(*(text_file(tmp_path / f"{i}.csv", text) for i, text in enumerate(texts)), **how)


def test_types_are_those_of_all_sets_together(tmp_path):
    odd, plain = "zip,icd\n02370,253.30\nK1A,V10\n", "zip,icd\n02370,253.30\n12345,251.00\n"
    for how in ({}, {"categorical": "zip,icd"}):
        sets = three(tmp_path, odd, odd, plain, **how)
        np.testing.assert_array_equal(sets.arrays[0][0], sets.arrays[2][0])  # the same row
        assert sets.values[2].tolist()[0] == ["02370", "253.30"]
    assert any("K1A" in note or "V10" in note for note in said_of(three(tmp_path, odd, odd, plain)))


@pytest.mark.parametrize("code", ["007", "02370", "00", "-05"])
def test_leading_zeros_are_part_of_a_code(tmp_path, code):
    sets = three(tmp_path, f"c\n{code}\n12\n", f"c\n{code}\n", f"c\n{code}\n")
    assert sets.values[0].tolist()[0] == [code] and "leading zeros" in said_of(sets)[0]


@pytest.mark.parametrize("number", ["0", "0.5", "-0.25", "1e3", "+7", "12", ".5", "5."])
def test_ordinary_numbers_are_numbers(tmp_path, number):
    assert load(text_file(tmp_path / "t.csv", f"a\n{number}\n1\n")).X[0, 0] == np.float32(float(number))


def test_long_numbers_are_codes(tmp_path):
    card = "4000123412341234567"
    sets = three(tmp_path, f"c\n{card}\n{card[:-1]}8\n", f"c\n{card}\n", f"c\n{card}\n")
    assert sets.values[0].tolist() == [[card], [card[:-1] + "8"]]


def test_dates_are_alike_everywhere(tmp_path):
    day, time = "d\n2020-01-02\n2020-01-03\n", "d\n2020-01-02 00:00:00\n2020-01-03T00:00\n"
    for texts in ((day, day, time), (time, day, day)):
        sets = three(tmp_path, *texts, scale="range")
        for X in sets.arrays:
            np.testing.assert_allclose(X, sets.arrays[0])


def test_quoted_line_breaks(tmp_path):
    long = "x" * 3000
    rows = [[f"{i}", f"first {i}\nsecond, {long}" if i % 7 else f'quoted "{i}"'] for i in range(900)]  # 2.5 MB
    with open(tmp_path / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows([["a", "b"], *rows])
    found = load_three(*[tmp_path / "t.csv"] * 3).values[0]
    assert len(found) == 900 and found[8].tolist() == [8, rows[8][1]] and found[7][1] == 'quoted "7"'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("sep=;\na;b\n1,5;2\n3,5;4\n", "1 line before"),
        ('"sep=;"\na;b\n1,5;2\n3,5;4\n', "1 line before"),
        ("# made by a tool, v2\n# on a day\na;b\n1,5;2\n3,5;4\n", "2 lines before"),
        ("a;b;\n1,5;2;\n3,5;4;\n", ""),
        ("a;b;;\n1,5;2;;\n3,5;4;;\n", ""),
        ("a ; b\n 1,5; 2\n3,5 ;4 \n", ""),
    ],
)
def test_what_other_programs_write_around_a_table(tmp_path, text, told):
    data = load(text_file(tmp_path / "t.csv", text))
    assert data.columns == ("a", "b") and data.X.tolist() == [[1.5, 2], [3.5, 4]]
    assert told in " ".join(data.notes) and ("skipped" in " ".join(data.notes)) == bool(told)


def test_columns_without_names_are_refused_by_number(tmp_path):
    refused("none for column 2, 3", text_file(tmp_path / "t.csv", "a,,,d\n1,2,3,4\n5,6,7,8\n"))


def test_names_may_begin_with_a_hash(tmp_path):
    assert load(text_file(tmp_path / "t.csv", "#chrom,b\n1,2\n3,4\n")).columns == ("#chrom", "b")


def test_space_is_no_part_of_a_field(tmp_path):
    sets = three(tmp_path, "a, b\n1, x\n 2, NA\n", "a,b\n1,x\n2,\n", "a,b\n1,x \n2,NA\n")
    assert sets.values[0].tolist() == sets.values[1].tolist() == sets.values[2].tolist() == [[1, "x"], [2, None]]


def test_an_encoding_is_told_wherever_its_first_letter_stands(tmp_path):
    for early in (True, False):
        rows = [f"{i},{'größe' if early or i == 59_999 else 'x'}" for i in range(60_000)]  # beyond the sample
        (tmp_path / "t.csv").write_bytes(("a,b\n" + "\n".join(rows) + "\n").encode("cp1252"))
        data = load(tmp_path / "t.csv", label_column="b")
        assert data.labels[-1] == "größe" and "cp1252" in " ".join(data.notes)


def test_a_column_that_counts_is_doubted(tmp_path):
    path = text_file(tmp_path / "t.csv", "id,a\n" + "".join(f"{i + 7},{i % 3}.5\n" for i in range(40)))
    assert "'id' only counts the rows" in load(path).notes[0]
    assert "'id' only counts the rows" in said_of(load_three(path, path, path))[0]
    assert not load(text_file(tmp_path / "s.csv", "a\n" + "".join(f"{i * i}\n" for i in range(40)))).notes


# --- columns that are no data


def test_the_index_of_a_data_frame_is_no_data(tmp_path):
    stored = {b"pandas": b'{"index_columns": ["patient"], "columns": []}'}
    table = pa.table({"a": [1.0, 2.0], "patient": [7, 9]}).replace_schema_metadata(stored)
    parquet.write_table(table, tmp_path / "t.parquet")
    for first in ("", "Unnamed: 0"):
        text = text_file(tmp_path / "t.csv", f"{first},a\n0,1\n1,2\n")
        for path in (text, tmp_path / "t.parquet"):
            data = load(path)
            assert data.columns == ("a",) and data.X.tolist() == [[1], [2]]
            assert "index of a data frame" in data.notes[0]
            assert load_three(path, path, path).columns == ("a",)
    assert load(text_file(tmp_path / "t.csv", "Unnamed: 0,a\n0,1\n0,2\n")).columns == ("Unnamed: 0", "a")  # data


def test_columns_are_dropped(tmp_path):
    path = text_file(tmp_path / "t.csv", "id,a,note\nx,1,u\ny,2,v\n")
    data = load(path, drop="id, note")
    assert data.columns == ("a",) and data.notes == ("Columns left out: id, note.",)
    refused("columns of .* to drop: id, a, note; got nothere", path, drop=["nothere"])


def test_identifiers_are_doubted(tmp_path):
    path = text_file(tmp_path / "t.csv", "id,a\n" + "".join(f"p{i},{i % 3}\n" for i in range(40)))
    assert "differs in nearly every row" in said_of(load_three(path, path, path))[0]


def test_lists_are_columns(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5), dtype=np.uint8)
    for kind in (pa.list_(pa.uint8()), pa.large_list(pa.uint8()), pa.list_(pa.uint8(), 5)):
        parquet.write_table(
            pa.table({"px": pa.array(pixels.tolist(), kind), "y": np.arange(6.0)}), tmp_path / "t.parquet"
        )
        sets = load_three(*[tmp_path / "t.parquet"] * 3)
        np.testing.assert_array_equal(sets.arrays[0], np.column_stack([pixels, np.arange(6)]))
        assert sets.columns == ("px[0]", "px[1]", "px[2]", "px[3]", "px[4]", "y")


# --- generated


CELLS = some.one_of(
    some.integers(-(10**9), 10**9).map(str),
    some.floats(-1e6, 1e6, allow_nan=False).map(lambda x: f"{x:.3f}"),
    some.text(some.characters(codec="utf-8", exclude_characters="\0\r", exclude_categories=("Cs",)), max_size=8),
)


@pytest.mark.slow
@given(some.data(), some.integers(1, 4), some.integers(2, 6), some.sampled_from([",", ";", "\t"]))
def test_every_cell_is_what_the_csv_module_wrote(tmp_path_factory, data, width, length, sep):
    """Text stays as written, apart from space around it, and numbers are those of float()."""
    rows = data.draw(some.lists(some.lists(CELLS, min_size=width, max_size=width), min_size=length, max_size=length))
    path = tmp_path_factory.mktemp("generated") / "t.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=sep, quoting=csv.QUOTE_ALL).writerows([[f"c{i}" for i in range(width)], *rows])
    found = load_three(
        path,
        path,
        path,
        categorical=[f"c{i}" for i in range(width)],
    ).values[0]
    from genmem.data.csv_files import GAPS

    for given_row, row in zip(rows, found.tolist(), strict=True):
        for cell, value in zip(given_row, row, strict=True):
            assert (value or "") == ("" if cell.strip() in GAPS else cell.strip())


def test_as_read(tmp_path):
    path = text_file(tmp_path / "t.csv", "id;a;kind\n0;1,5;x\n1;2,5;y\n2;3,5;x\n")
    said = " ".join(as_read(load(path, drop="id", label_column="kind")))
    for part in ("3 examples of 1 values", "Columns of numbers: a 1.5 to 3.5.", "2 labels: x (2), y (1).", "semicolon"):
        assert part in said
    assert "decimal comma" in said and "Columns left out: id." in said
