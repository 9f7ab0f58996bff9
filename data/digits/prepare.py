"""Write digits.npz (x, y) from the copy of the digits inside scikit-learn; nothing is downloaded."""

import argparse
import sys
from pathlib import Path

import numpy as np

from genmem.data import fingerprint, load
from genmem.errors import DataError

SHA256 = "7a6169d1bee515ba980dca6c87823002bd577d86f3d68934ec7bbfffe12f02a1"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "digits.npz", help="the file to write")
    out = parser.parse_args(arguments).out
    data = load("digits")
    try:
        check(fingerprint(data.X))
        np.savez_compressed(out, x=data.X, y=np.asarray(data.labels))
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(out)
    return 0


def check(found: str) -> None:
    if found != SHA256:
        raise DataError(
            expected=f"digits with the fingerprint {SHA256}",
            got=found,
            do="Install a scikit-learn release that ships the original digits.",
        )


if __name__ == "__main__":
    sys.exit(main())
