"""Check local MNIST files against the original checksums and write mnist.npz; nothing is downloaded.

Name the four IDX files, gzipped or not, in any order, or one .npz file with x_train, y_train, x_test and y_test.
"""

import argparse
import hashlib
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genmem.data.files import kind_of, read, read_idx
from genmem.errors import DataError

MD5 = {  # of the uncompressed IDX files
    "x_train": "6bbc9ace898e44ae57da46a324031adb",
    "y_train": "a25bea736e30d166cdddb491f175f624",
    "x_test": "2646ac647ad5339dbf082846283269ea",
    "y_test": "27ae3e4e09519cfbb04c329615203637",
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="four IDX files, or one .npz file")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "mnist.npz", help="the file to write")
    asked = parser.parse_args(arguments)
    try:
        arrays = from_npz(asked.files[0]) if is_npz(asked.files) else from_idx(asked.files)
        np.savez_compressed(asked.out, **arrays)
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(asked.out)
    return 0


def is_npz(files: list[Path]) -> bool:
    return len(files) == 1 and kind_of(files[0]) == "npz"


def from_npz(path: Path) -> dict[str, NDArray[np.uint8]]:
    arrays = {name: read(path, array=name).X for name in MD5}
    for name, array in arrays.items():
        if md5(array) != MD5[name]:
            raise unknown(f"{name} in {path}", array, MD5[name])
    return arrays


def from_idx(paths: list[Path]) -> dict[str, NDArray[np.uint8]]:
    names = {checksum: name for name, checksum in MD5.items()}
    arrays = {}
    for path in paths:
        array = read_idx(path)
        if md5(array) not in names:
            raise unknown(str(path), array, "one of " + ", ".join(names))
        arrays[names[md5(array)]] = array
    missing = [name for name in MD5 if name not in arrays]
    if missing:
        raise DataError(
            expected="the four files of MNIST",
            got=f"{len(arrays)} of them; missing: {', '.join(missing)}",
            do="Name all four IDX files, or one .npz file with all four arrays.",
        )
    return {name: arrays[name] for name in MD5}


def md5(array: NDArray[np.uint8]) -> str:
    """Return the checksum of the IDX file that holds `array`."""
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return hashlib.md5(header + array.tobytes(), usedforsecurity=False).hexdigest()


def unknown(what: str, array: NDArray[np.uint8], expected: str) -> DataError:
    return DataError(
        expected=f"{what} to be an original MNIST file, md5 {expected}",
        got=f"md5 {md5(array)}, {array.dtype} of shape {array.shape}",
        do="Fetch the original files again.",
    )


if __name__ == "__main__":
    sys.exit(main())
