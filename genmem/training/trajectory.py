"""Checkpoints of a training run, in memory and on disk."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load, save
from torch import Tensor, nn

from genmem.errors import RunError
from genmem.protocols import Brief
from genmem.run.storage import write_atomically
from genmem.run.written import digest

MANIFEST = "manifest.json"
State = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint(Brief):
    """The state of a network before optimizer step `step`; it represents the steps after it.

    `state_dict()` loads with `strict=True` into a fresh network of the same `make_module`.
    """

    epoch: int
    step: int
    learning_rate: float
    read: Callable[[], State]
    read_moments: Callable[[], State] = dict

    def headline(self) -> str:
        """Return the size and the main figures."""
        return f"epoch {self.epoch}, step {self.step}"

    def state_dict(self) -> State:
        """Return the parameters and buffers."""
        return self.read()

    def second_moments(self) -> State:
        """Return Adam's bias-corrected second moment of each parameter; none before the first step."""
        return self.read_moments()


@dataclass(frozen=True)
class Trajectory(Brief):
    """Checkpoints in the order of training, the untrained network first.

    `n_train` examples in batches of `batch_size` were trained on. `unknown` names what is not known of a training loop
    of the user's own: "learning_rate", "steps" (checkpoints are numbered instead) or "n_train" (0).
    """

    checkpoints: tuple[Checkpoint, ...]
    n_train: int
    batch_size: int
    unknown: frozenset[str] = frozenset()

    def headline(self) -> str:
        """Return the size and the main figures."""
        return f"{len(self):,} checkpoints of {self.n_train:,} examples, the last at step {self[-1].step:,}"

    def __len__(self) -> int:
        return len(self.checkpoints)

    def __getitem__(self, i: int) -> Checkpoint:
        return self.checkpoints[i]

    def __iter__(self) -> Iterator[Checkpoint]:
        return iter(self.checkpoints)


def remember(
    module: nn.Module, *, epoch: int, step: int, learning_rate: float, moments: Mapping[str, Tensor] | None = None
) -> Checkpoint:
    """Return a checkpoint that keeps copies of the network's state, and of Adam's second moments, in memory."""
    state, squares = _copied(module.state_dict()), _copied(moments or {})
    return Checkpoint(epoch, step, learning_rate, lambda: state, lambda: squares)


def _copied(state: Mapping[str, Tensor]) -> State:
    return {name: value.detach().cpu().clone() for name, value in state.items()}


def save_trajectory(trajectory: Trajectory, folder: Path) -> None:
    """Write safetensors files for each checkpoint, then the manifest, which marks the trajectory as complete.

    A checkpoint has a file of its state and, after the first step, one of Adam's second moments (`moments`).
    """
    rows = []
    for checkpoint in trajectory:
        name = f"{checkpoint.epoch:06d}.safetensors"
        row = {"file": name, "epoch": checkpoint.epoch, "step": checkpoint.step}
        rows.append({**row, "learning_rate": checkpoint.learning_rate})
        rows[-1]["sha256"] = _write(folder / name, checkpoint.state_dict())
        if moments := checkpoint.second_moments():
            rows[-1]["moments"] = f"{checkpoint.epoch:06d}.moments.safetensors"
            rows[-1]["moments_sha256"] = _write(folder / str(rows[-1]["moments"]), moments)
    manifest = {"n_train": trajectory.n_train, "batch_size": trajectory.batch_size, "checkpoints": rows}
    manifest["sha256"] = _digest(manifest)
    text = json.dumps(manifest, indent=2) + "\n"
    write_atomically(folder / MANIFEST, lambda handle: handle.write(text.encode()))


def _write(path: Path, state: State) -> str:
    """Write a state and return the digest of its file."""
    payload = save({name: value.contiguous() for name, value in state.items()})
    write_atomically(path, lambda handle: handle.write(payload))
    return digest(payload)


def _digest(manifest: Mapping[str, object]) -> str:
    """Return the digest of all of a manifest but its own."""
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    return digest(json.dumps(rest, sort_keys=True).encode())


def load_trajectory(folder: Path) -> Trajectory | None:
    """Return the trajectory in `folder`, its states read on demand; None if there is none.

    Raises:
        RunError: the manifest is damaged.
    """
    file = folder / MANIFEST
    if not file.exists():
        return None
    try:
        manifest = json.loads(file.read_text())
        if manifest.get("sha256", own := _digest(manifest)) != own:
            raise ValueError("it does not match its checksum")
        rows = tuple(_from_disk(folder, row) for row in manifest["checkpoints"])
        return Trajectory(rows, int(manifest["n_train"]), int(manifest["batch_size"]))
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            expected=f"the manifest of a trajectory in {file}",
            got=f"a damaged file ({error})",
            do="Delete the trajectory folder, then run `genmem fit` on the run, or the audit again.",
        ) from error


def _from_disk(folder: Path, row: dict[str, object]) -> Checkpoint:
    path, moments = folder / str(row["file"]), row.get("moments")
    known = row.get("learning_rate")  # users of the rate check it; the states are valid without it
    rate = math.nan if known is None else float(str(known))
    squares = dict if moments is None else lambda: _read(folder / str(moments), row.get("moments_sha256"))
    return Checkpoint(
        int(str(row["epoch"])), int(str(row["step"])), rate, lambda: _read(path, row.get("sha256")), squares
    )


def _read(path: Path, known: object) -> State:
    """Return a state; `known` is the digest of its file, None in trajectories of earlier versions."""
    try:
        payload = path.read_bytes()
        if known is not None and digest(payload) != known:
            raise ValueError("it does not match its checksum")
        return load(payload)
    except Exception as error:  # safetensors and the file system each have errors of their own
        raise RunError(
            expected=f"an undamaged checkpoint {path}",
            got=f"one that cannot be read ({type(error).__name__}: {error})",
            do="Delete the trajectory folder, then run `genmem fit` on the run, or the audit again.",
        ) from error
