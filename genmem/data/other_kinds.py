"""Files of kinds that are not read: what they really are, and the one thing to do."""

import re
from pathlib import Path

_UNPACK = ("an archive", "Unpack it, and pass the file or folder of examples in it.")
_BY_START = (
    (b"\x1f\x8b", *_UNPACK),
    (b"PK\x03\x04", *_UNPACK),
    (b"7z\xbc\xaf", *_UNPACK),
    (b"Rar!", *_UNPACK),
    (b"BZh", *_UNPACK),
    (b"\xfd7zXZ", *_UNPACK),
    (b"\x89HDF", "an HDF5 file", 'Save its array as .npy: numpy.save(path, file["name"][:]) with h5py.'),
    (b"MATLAB", "a MATLAB file", 'Save its array as .npy: numpy.save(path, scipy.io.loadmat(file)["name"]).'),
    (b"PAR1", "a Parquet file", "Rename it so that it ends in .parquet."),
    (b"\x93NUMPY", "a numpy array", "Rename it so that it ends in .npy."),
    (b"ARROW1", "an Arrow file", "Save it as .parquet: dataset.to_parquet(path)."),
    (b"\x89PNG", "one image", "Pass the folder that holds the images."),
    (b"\xff\xd8\xff", "one image", "Pass the folder that holds the images."),
)
_HDF = b"\x89HDF"
_BY_SUFFIX = {  # formats within formats: the first bytes, what it is, and what to do
    ".h5ad": (_HDF, "an AnnData file", "Save its counts: scipy.sparse.save_npz(path, anndata.read_h5ad(file).X)."),
    ".loom": (_HDF, "a Loom file", "Save its matrix: numpy.save(path, loompy.connect(file)[:, :].T)."),
    ".mat": (_HDF, "a MATLAB file of version 7.3", 'Save its array: numpy.save(path, h5py.File(file)["name"][:].T).'),
    ".xlsx": (b"PK", "an Excel workbook", "Save its sheet as .csv."),
    ".ods": (b"PK", "a spreadsheet", "Save its sheet as .csv."),
    ".xls": (b"\xd0\xcf\x11\xe0", "an Excel workbook", "Save its sheet as .csv."),
    ".rds": (b"\x1f\x8b", "an R object", "Write its table in R: write.csv(table, path, row.names = FALSE)."),
    ".rdata": (b"\x1f\x8b", "R objects", "Write the table in R: write.csv(table, path, row.names = FALSE)."),
    ".sas7bdat": (b"\0", "a SAS table", "Save it as .csv or .parquet."),
    ".dta": (b"", "a Stata table", "Save it as .csv or .parquet."),
    ".sav": (b"$FL2", "an SPSS table", "Save it as .csv or .parquet."),
    ".jsonl": (b"", "lines of JSON", "Save it with pyarrow: parquet.write_table(json.read_json(file), path)."),
    ".tar": (b"", *_UNPACK),
    ".json": (b"", "JSON", "Save its numbers as .csv, or as an array with numpy.save."),
}
_TEXTS = (".txt", ".dat", ".data", ".asc", ".prn", ".arff")
_TEXT = (
    "a file of text",
    "If it is a table, give it a first line with the names of the columns, one separator and a name that ends in .csv.",
)
_POINTER = b"version https://git-lfs"
_CIFAR = re.compile(r"data_batch(_\d)?|test_batch|train|test")
_PICKLES = (".pkl", ".pickle", ".joblib")


def what_it_is(path: Path) -> tuple[str, str] | None:
    """Return what a file of an unknown kind is, and the one thing to do; None if that is not known either."""
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        head = file.read(8)
    suffix = path.suffix.lower()
    if suffix in _BY_SUFFIX and head.startswith(_BY_SUFFIX[suffix][0]):
        return _BY_SUFFIX[suffix][1:]
    if suffix in _PICKLES or _is_pickle(head):
        said = "a Python pickle, which could run any code and is never loaded"
        if _CIFAR.fullmatch(path.name):
            return said, 'Pass the "binary version" of CIFAR instead (data_batch_1.bin, ...; train.bin).'
        return said, "Save its array with numpy.save."
    found = next(((what, do) for start, what, do in _BY_START if head.startswith(start)), None)
    return _TEXT if found is None and suffix in _TEXTS else found


def no_table_of_text(head: bytes) -> tuple[str, str] | None:
    """Return what the first bytes of a file named as a text table are instead, and the one thing to do."""
    if head.startswith(b"\x1f\x8b"):
        return "gzipped", "Rename the file so that it ends in .gz."
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "a web page, as after a failed download", "Download the table again."
    return next(((what, do) for start, what, do in _BY_START if head.startswith(start)), None)


def is_pointer(path: Path) -> bool:
    """Return whether a file is a pointer of Git LFS to the real one."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(_POINTER)) == _POINTER


def not_an_image(head: bytes) -> tuple[str, str] | None:
    """Return what the first bytes of a file named as an image are instead, and the one thing to do."""
    again = "Replace or remove this file."
    if not head:
        return "it is empty", again
    if head.startswith(_POINTER):
        return "it is a pointer of Git LFS to the image", "Fetch the images with git lfs pull."
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "it is a web page, as after a failed download", again
    if text.startswith((b"<svg", b"<?xml")):
        return "it is a drawing in SVG", "Draw it as pixels, such as .png, or remove this file."
    return None


def _is_pickle(head: bytes) -> bool:
    """Return whether a file starts with the opcode PROTO and a protocol, 2 to 5."""
    return len(head) > 2 and head[0] == 0x80 and 2 <= head[1] <= 5
