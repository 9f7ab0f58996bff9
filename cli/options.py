"""The options that several commands share."""

from collections.abc import Callable
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Setting(click.ParamType):
    """`key=value`."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Return (key, text)."""
        key, equals, text = str(value).partition("=")
        if not equals or not key:
            self.fail(f"expected key=value, such as latent_dim=16; got {value!r}.", param, ctx)
        return key.strip().replace("-", "_"), text


class AutoOr(click.ParamType):
    """The word "auto", one integer, or a comma-separated list of them."""

    def __init__(self, several: bool = False) -> None:
        self.several, self.name = several, "auto|N,N,..." if several else "auto|N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return "auto", an integer, or a list of integers."""
        if value == "auto" or isinstance(value, int | list):
            return value
        try:
            numbers = [int(part) for part in str(value).split(",")]
        except ValueError:
            numbers = []
        if not numbers or (len(numbers) > 1 and not self.several) or min(numbers) < 1:
            self.fail(f"expected {self.name} with numbers of at least 1; got {value!r}.", param, ctx)
        return numbers if self.several else numbers[0]


class Shape(click.ParamType):
    """`28x28`."""

    name = "HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Return the sizes."""
        sizes = str(value).lower().split("x")
        if len(sizes) not in (2, 3) or not all(size.isdecimal() and int(size) for size in sizes):
            self.fail(f"expected sizes such as 28x28 or 32x32x3; got {value!r}.", param, ctx)
        return tuple(int(size) for size in sizes)


def planning(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the argument and options that plan an audit."""
    return _adding(command, _PLANNING)


def _option(name: str, kind: Any, help_text: str, default: Any = None, **more: Any) -> Decorator:
    return click.option(name, type=kind, default=default, show_default=default is not None, help=help_text, **more)


_PLANNING: list[Decorator] = [
    click.argument("data"),
    _option("--model", str, "A built-in name or package.module:factory.", "vae"),
    _option("--out", click.Path(), "The run directory [default: runs/<data>-<model>]."),
    _option("--folds", click.IntRange(min=2), "K: each refit leaves out one K-th [default: 5]."),
    _option("--repeats", click.IntRange(min=1), "L: independent repetitions.", 8),
    _option("--max-repeats", click.IntRange(min=1), "Up to so many, with --target-reliability [default: 3 x repeats]."),
    click.option("--together", is_flag=True, help="Identical examples are left out together."),
    _option("--fraction", float, "Train on random subsets of this share, in place of folds."),
    _option("--leave-out", click.Choice(["labels"]), "Leave out one label after the other, in place of folds."),
    _option("--epochs", click.IntRange(min=1), "Epochs of training [default: the model's]."),
    _option("--seed", click.IntRange(min=0), "The root of all randomness.", 0),
    _option("--subset", click.IntRange(min=2), "Audit only N examples, drawn at random."),
    click.option("--set", "settings", type=Setting(), multiple=True, help="A setting of the model: latent_dim=16."),
    _option("--labels", click.Path(), "A file of labels (.npy, .csv, .txt, IDX)."),
    _option("--array", str, "The array of an .npz file that holds the examples."),
    _option("--label-array", str, "The array of an .npz file that holds the labels."),
    _option("--label-column", str, "The column of a table that holds the labels."),
    _option("--score-epochs", AutoOr(several=True), "Epochs after which every example is scored.", "auto"),
    _option("--importance-samples", AutoOr(), "Draws for each log p; auto is 64.", "auto"),
    _option("--device", str, "cpu, cuda, cuda:1 [default: CUDA where there is one]."),
]


def refitting(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of refits; all but the target change no number."""
    return _adding(command, _REFITTING)


def computing(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add where to compute."""
    return _adding(command, _COMPUTING)


def scoring(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the choice of estimator."""
    return _adding(command, [_ESTIMATOR])


def _adding(command: Callable[..., Any], options: list[Decorator]) -> Callable[..., Any]:
    for add in reversed(options):
        command = add(command)
    return command


_COMPUTING: list[Decorator] = [
    _option("--workers", AutoOr(), "Processes on this machine, its threads divided among them.", "auto"),
    _option("--dask", str, "A dask scheduler whose workers compute: tcp://host:8786."),
]
_REFITTING: list[Decorator] = [
    *_COMPUTING,
    _option("--lanes", AutoOr(), "Networks trained in one batch.", "auto"),
    _option(
        "--target-reliability",
        click.FloatRange(0, 1, min_open=True, max_open=True),
        "Add repeats until scores are so reliable, up to --max-repeats.",
    ),
    click.option("--recompute", is_flag=True, help="Compute damaged shards and failed refits again."),
]
_ESTIMATOR = _option(
    "--estimator",
    click.Choice(["mean_log", "log_mean", "adjusted"]),
    "Difference of mean log densities; log ratio of mean densities (as published); or the first with a shrunken "
    "column beside it.",
    "mean_log",
)
POSTERIOR = _option(
    "--posterior",
    click.Choice(["auto", "amortised", "refit"]),
    "log p through the encoder, or through a posterior refitted to each example; auto measures the difference.",
    "auto",
)


def attributing(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what to attribute, and how."""
    return _adding(command, _ATTRIBUTING)


_ATTRIBUTING: list[Decorator] = [
    _option("--queries", click.IntRange(min=0), "How many of the most memorized examples to explain.", 12),
    _option("--samples", click.IntRange(min=0), "How many fresh samples of the model to explain.", 8),
    _option("--k", click.IntRange(min=1), "How many proponents and opponents of each.", 5),
    _option("--draws", click.IntRange(min=2), "Draws of latent variables, for each example and checkpoint.", 16),
    _option(
        "--weights",
        click.Choice(["complete", "lr", "adam"]),
        "Of checkpoints: so that influences add up to the drop in loss; the learning rate; for Adam.",
        "complete",
    ),
    _option(
        "--scale",
        click.Choice(["dot", "cosine", "query"]),
        "Scores as they are, over the lengths of both gradients, or over that of the training example's.",
        "dot",
    ),
    _option(
        "--examples", AutoOr(), "Training examples to consider, drawn at random; auto is what minutes allow.", "auto"
    ),
    _option("--seed", click.IntRange(min=0), "Of draws, samples and that choice [default: the run's]."),
    click.option("--recompute", is_flag=True, help="Compute all of it again, unfinished sums included."),
]


def a_run(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the argument that names a run directory."""
    return click.argument("run_directory", metavar="RUN", type=click.Path())(command)


def sampling(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what to check of a run for copies."""
    return _adding(command, [*_SAMPLING, *_SPACE, _option("--seed", click.IntRange(min=0), _SEED)])


def checking(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the three sets of a check for copies, and what to make of them."""
    return _adding(command, [*_SETS, *_SPACE, *_CHECKING])


_SEED = "Of samples and tests [default: the run's]."
_SAMPLING: list[Decorator] = [
    _option("--test", click.Path(), "Held-out examples of the same source [default: a fold, and a refit without it]."),
    _option("--samples", click.IntRange(min=1), "How many samples to draw [default: as many as held-out examples]."),
]
_SPACE: list[Decorator] = [
    _option(
        "--space",
        str,
        "Where distances are measured: raw, pooled, spectrum (of shifted and mirrored images), pca, pca:K, or "
        "package.module:function; with a run also latent.",
        "raw",
    ),
    _option(
        "--level",
        click.FloatRange(0, 1, min_open=True, max_open=True),
        "The false-discovery rate of samples and rows that are named.",
        0.1,
    ),
]
_SETS: list[Decorator] = [
    _option("--train", click.Path(), "What the model was trained on.", required=True),
    _option("--test", click.Path(), "Held-out examples of the same source.", required=True),
    _option("--samples", click.Path(), "What the model generated.", required=True),
    _option("--array", str, "The array of .npz files that holds the rows: one name, or three with commas."),
    _option("--categorical", str, "Columns of tables whose numbers are codes, with commas; text always is."),
    _option("--scale", click.Choice(["range", "spread"]), "Gives every column of tables the same say."),
    _option("--id-column", str, "A column of tables that tells what rows are called."),
    _option("--image-shape", Shape(), "Height and width of images that come as flat rows: 28x28 or 32x32x3."),
]
_CHECKING: list[Decorator] = [
    _option("--out", click.Path(), "The folder of the report [default: runs/<samples>-copycheck]."),
    _option("--seed", click.IntRange(min=0), "The root of all randomness.", 0),
    _option("--fail-if", str, 'Exit with 1 where this holds: "copied_share_low > 0.01".'),
    click.option("--redact", is_flag=True, help="Show row numbers and distances only: no pictures, values or names."),
]
