"""Checkpoints of a training run, in memory and on disk."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save
from torch import Tensor, nn

from genmem.errors import RunError
from genmem.storage import write_atomically

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """The state of a network before optimiser step `step`; it stands for the steps after it.

    `state_dict()` loads with `strict=True` into a fresh network of the same `make_module`.
    """

    epoch: int
    step: int
    learning_rate: float
    read: Callable[[], dict[str, Tensor]]

    def state_dict(self) -> dict[str, Tensor]:
        """Return the parameters and buffers."""
        return self.read()


@dataclass(frozen=True)
class Trajectory:
    """Checkpoints in the order of training, the untrained network first.

    `n_train` examples in batches of `batch_size` were trained on.
    """

    checkpoints: tuple[Checkpoint, ...]
    n_train: int
    batch_size: int

    def __len__(self) -> int:
        return len(self.checkpoints)

    def __getitem__(self, i: int) -> Checkpoint:
        return self.checkpoints[i]

    def __iter__(self) -> Iterator[Checkpoint]:
        return iter(self.checkpoints)


def remember(module: nn.Module, *, epoch: int, step: int, learning_rate: float) -> Checkpoint:
    """Return a checkpoint that keeps a copy of the network's state in memory."""
    state = {k: v.detach().cpu().clone() for k, v in module.state_dict().items()}
    return Checkpoint(epoch, step, learning_rate, lambda: state)


def save_trajectory(trajectory: Trajectory, folder: Path) -> None:
    """Write a safetensors file for each checkpoint, then the manifest: with it, the trajectory is whole."""
    rows = []
    for checkpoint in trajectory:
        name = f"{checkpoint.epoch:06d}.safetensors"
        payload = save({k: v.contiguous() for k, v in checkpoint.state_dict().items()})
        write_atomically(folder / name, lambda handle, payload=payload: handle.write(payload))  # type: ignore[misc]
        rows.append(
            {
                "file": name,
                "epoch": checkpoint.epoch,
                "step": checkpoint.step,
                "learning_rate": checkpoint.learning_rate,
            }
        )
    manifest = {"n_train": trajectory.n_train, "batch_size": trajectory.batch_size, "checkpoints": rows}
    text = json.dumps(manifest, indent=2) + "\n"
    write_atomically(folder / MANIFEST, lambda handle: handle.write(text.encode()))


def load_trajectory(folder: Path) -> Trajectory | None:
    """Return the trajectory in `folder`, states read when asked for; None where there is none.

    Raises:
        RunError: the manifest is damaged.
    """
    file = folder / MANIFEST
    if not file.exists():
        return None
    try:
        manifest = json.loads(file.read_text())
        rows = tuple(_from_disk(folder, row) for row in manifest["checkpoints"])
        return Trajectory(rows, int(manifest["n_train"]), int(manifest["batch_size"]))
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            expected=f"the manifest of a trajectory in {file}",
            got=f"a damaged file ({error})",
            do="Delete the trajectory folder and run the same command again.",
        ) from error


def _from_disk(folder: Path, row: dict[str, object]) -> Checkpoint:
    path = folder / str(row["file"])
    rate = float(str(row["learning_rate"]))
    return Checkpoint(int(str(row["epoch"])), int(str(row["step"])), rate, lambda: _read(path))


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as error:  # safetensors and the file system each have errors of their own
        raise RunError(
            expected=f"a sound checkpoint {path}",
            got=f"one that cannot be read ({type(error).__name__})",
            do="Delete the trajectory folder and run the same command again.",
        ) from error
