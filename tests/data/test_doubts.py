"""Tables as other programs write them that are no plain numbers: told or refused by their true cause, never misread."""

import numpy as np
import pytest
from sources import refused, text_file

from genmem.data import load
from genmem.data.as_read_sets import as_read_sets
from genmem.data.three_sets import load_three
from genmem.errors import DataError


def table(tmp_path, text, name="t.csv"):
    return text_file(tmp_path / name, text)


def told(path, **how):
    return " ".join(as_read_sets(load_three(path, path, path, **how)))


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ("12%|13.5%|7%", "percentages such as '12%'; write plain numbers"),
        ("$12.50|$7|9", "amounts of money such as '$12.50'"),
        ("12,50 €|7 €", "amounts of money such as '12,50 €'"),
        ("1 234,5|2 345|7", "numbers with thousands separators such as '1 234,5'"),
        ("1'234.5|2'345", 'numbers with thousands separators such as "1\'234.5"'),
        ("1,234|2,345,678", "numbers with thousands separators such as '1,234'"),
        ("1.234,5|70,5|82", "numbers with thousands separators such as '1.234,5'"),
        ("1,5|2.5", "numbers with a decimal comma such as '1,5'; pass --decimal ,"),
        ("'1'|'2'", "numbers in quotes such as \"'1'\""),
        ("(1.5)|3", "negative numbers in brackets such as '(1.5)'"),
        ("\u22121.5|3", "numbers with another sign than - such as '\u22121.5'"),
        ("[1, 2]|[3, 4]", "lists of numbers such as '[1, 2]'"),
        ("31.12.2020|01.02.2021", "dates in another form than 2020-12-31 such as '31.12.2020'"),
        ("12/31/2020|1/2/21", "dates in another form than 2020-12-31 such as '12/31/2020'"),
        ("2020-12-31|31.12.2020", "dates in another form than 2020-12-31 such as '31.12.2020'"),
        ("2020/12/31 10:00|2020/12/30 11:00", "dates in another form than 2020-12-31 such as '2020/12/31 10:00'"),
        ("31 Dec 2020|1 January 2021", "dates in another form than 2020-12-31 such as '31 Dec 2020'"),
        ("12:30|13:45:10", "times of day such as '12:30'"),
    ],
)
def test_text_that_looks_like_numbers_or_dates(tmp_path, values, what):
    path = table(tmp_path, "a|b\n" + "".join(f"{value}|{i}\n" for i, value in enumerate(values.split("|"))))
    assert f"Column 'a' is text: its values are {what}" in told(path)
    with pytest.raises(DataError) as error:
        load(path)
    assert f"a (string: {what}" in error.value.got and "b (" not in error.value.got


def test_ordinary_text_is_not_doubted(tmp_path):
    for values in ("Yes|No|Yes", "a|b|a", "M1|M2|F1", "north 1|south 2|north 1", "x,y|z,y|x,y"):
        path = table(tmp_path, "a|b\n" + "".join(f"{value}|{i}\n" for i, value in enumerate(values.split("|"))))
        assert "is text" not in told(path)


@pytest.mark.parametrize("sep", [";", "\t", "|"])
def test_three_digits_behind_a_comma_are_decimals_or_thousands(tmp_path, sep):
    """Whether 1,234 is 1.234 or 1234 is asked, unless another number of the file tells."""

    def load_it(a, c, **how):
        rows = [sep.join(row) for row in zip(("a", *a), ("c", *c), strict=True)]
        return load(table(tmp_path, "\n".join(rows) + "\n"), **how).X.tolist()

    three, whole = ("1,234", "10,500", "7"), ("2", "3", "4")
    with pytest.raises(DataError, match="decimal mark can be told in .*numbers such as 1,234.*--decimal , if"):
        load_it(three, whole)
    decimals = np.float32([[1.234, 2], [10.5, 3], [7, 4]]).tolist()
    assert load_it(three, whole, decimal=",") == decimals
    assert load_it(three, ("2,5", "3", "4")) == np.float32([[1.234, 2.5], [10.5, 3], [7, 4]]).tolist()
    assert load_it(("0,234", "1,500", "7,000"), whole) == np.float32([[0.234, 2], [1.5, 3], [7, 4]]).tolist()
    for how in ({"decimal": "."}, {}):  # with a million among them, or points beside them, they are thousands
        with pytest.raises(DataError, match=r"a \(string: numbers with thousands separators"):
            load_it(three, whole if how else ("2,345.5", "1,000.5", "3"), **how)


def test_three_digits_behind_a_point(tmp_path):
    """They are decimals, which is told in files separated by semicolons; beside decimal commas they are thousands."""
    path = table(tmp_path, "a;b\n1.234;2\n10.500;3\n")
    assert load(path).X.tolist() == np.float32([[1.234, 2], [10.5, 3]]).tolist()
    assert "'a' were taken as decimals, not as thousands" in load(path).notes[-1]
    assert not load(table(tmp_path, "a;b\n1.234;2\n10.51;3\n")).notes[1:]
    path = table(tmp_path, "a;b\n1.234;2,5\n10.500;3,5\n")
    refused(r"a \(string: numbers with leading zeros, too many digits or points, .* such as '1.234'", path)
    assert load(path, drop="a").X.tolist() == [[2.5], [3.5]]


def test_dates_without_marks_and_codes_for_gaps(tmp_path):
    path = table(tmp_path, "d,c,year,z\n20201231,-999,2020,-1\n20210101,5,2021,-999\n20210102,6,2021,4\n")
    said = load(path).notes
    assert said == (
        "Column 'd' holds numbers that look like dates, as 20201231 does: write them as 2020-12-31.",
        "Column 'c' has 1 value of -999 and none else below 0: if they mark gaps, pass --na -999.",
    )
    refused("2 missing|1 missing, the first in row 0", path, na="-999")
    assert "d 20201232 to 20210102" in as_read_of(path)  # in float32
    assert "d number 20201231 to 20210102" in told(path)


def as_read_of(path):
    from genmem.data.as_read import as_read

    return " ".join(as_read(load(path)))


def test_rows_and_names_that_are_none(tmp_path):
    path = table(tmp_path, "name,a\nx,1\ny,2\nz,4\nTotal,7\n")
    assert "The last row looks like a total: 'Total'." in told(path)
    assert "looks like a total" not in told(table(tmp_path, "name,a\nx,1\ny,2\nz,4\n"))
    assert "is the line of names missing (anna, 2)?" in told(table(tmp_path, "anna,2\nbert,4\ncora,6\n"))
    assert "is the line of names" not in told(table(tmp_path, "country,2020,2021\nx,4,5\ny,6,7\n"))
    refused(r"a \(string: no numbers in 1 of 4 rows, such as 'Total'", table(tmp_path, "a\n1\n3\n5\nTotal\n"))
    refused("no numbers in 1 of 3 rows, such as 'kg'", table(tmp_path, "a,b\nkg,cm\n1,2\n3,4\n"))


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("x\ty\n1\t1.5\t2\n2\t2.5\t3\n", r"2 fields in every row .*got 3 in row 2: 1 1.5 2.*row.names = FALSE"),
        ("a\tb\n1\t2\n3\n", "2 fields in every row .*got 1 in row 3: 3. Correct this row"),
        ("a\tb\n1\t2\n# end\n", "got 1 in row 3: # end. .*leave out lines of title and notes"),
        ("Report of 2020\na\tb\n1\t2\n", "1 field in every row .*got 2 in row 2: a b. .*lines of title"),
    ],
)
def test_ragged_rows_are_named(tmp_path, text, cause):
    refused(cause, table(tmp_path, text, "t.tsv"))


def test_other_separators_are_named(tmp_path):
    for mark in (" ", ":", "~"):
        path = table(tmp_path, f"a{mark}b\n1{mark}2\n3{mark}4\n")
        refused(f"fields separated by '{mark}', it seems; pass --sep '{mark}'", path)
        assert f"fields separated by '{mark}': pass --sep" in told(path)
        assert load(path, sep=mark).X.tolist() == [[1, 2], [3, 4]]
    assert "separated" not in told(table(tmp_path, "full name\nJohn Smith\nVan der Waals\n"))


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark(tmp_path, encoding):
    (tmp_path / "t.csv").write_bytes("a;größe\n1,5;2\n3,5;4\n".encode(encoding))
    data = load(tmp_path / "t.csv")
    assert data.columns == ("a", "größe") and data.X.tolist() == [[1.5, 2], [3.5, 4]]
    assert f"read as {encoding}" in " ".join(data.notes)


def test_utf_32_is_named(tmp_path):
    (tmp_path / "t.csv").write_bytes("a,b\n1,2\n".encode("utf-32"))
    refused("text in UTF-8 .*; got UTF-32", tmp_path / "t.csv")


@pytest.mark.parametrize("name", ["t.txt", "t.dat", "t.data"])
def test_tables_of_another_name_are_named(tmp_path, name):
    refused("which is a file of text. If it is a table, .* ends in .csv", table(tmp_path, "a,b\n1,2\n", name))


def test_infinite_values_beside_others(tmp_path):
    with pytest.raises(DataError, match="finite numbers in column 'b' of train; got 2 infinite"):
        told(table(tmp_path, "a,b\n1,inf\n2,-inf\n"))
