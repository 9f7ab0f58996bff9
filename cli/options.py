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


def planning(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the argument and options that plan an audit."""
    for add in reversed(_PLANNING):
        command = add(command)
    return command


def _option(name: str, kind: Any, help_text: str, default: Any = None, **more: Any) -> Decorator:
    return click.option(name, type=kind, default=default, show_default=default is not None, help=help_text, **more)


_PLANNING: list[Decorator] = [
    click.argument("data"),
    _option("--model", str, "A built-in name or package.module:factory.", "vae"),
    _option("--out", click.Path(), "The run directory [default: runs/<data>-<model>]."),
    _option("--folds", click.IntRange(min=2), "K: each refit leaves out one K-th.", 5),
    _option("--repeats", click.IntRange(min=1), "L: independent repetitions.", 8),
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
    """Add the options of refits; they change no number."""
    lanes = click.option(
        "--lanes", type=AutoOr(), default="auto", show_default=True, help="Networks trained in one batch."
    )
    recompute = click.option("--recompute", is_flag=True, help="Compute damaged shards again.")
    return lanes(recompute(command))


def estimating(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the choice of estimator."""
    return click.option(
        "--estimator",
        type=click.Choice(["mean_log", "log_mean"]),
        default="mean_log",
        show_default=True,
        help="Difference of mean log densities, or log ratio of mean densities (as published).",
    )(command)


def a_run(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the argument that names a run directory."""
    return click.argument("run_directory", metavar="RUN", type=click.Path())(command)
