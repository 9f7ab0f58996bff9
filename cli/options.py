"""Options of the commands, and their types."""

from collections.abc import Callable
from typing import Any

import click

from genmem_cli.running import TRUST

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
    """Add the argument and options of a plan."""
    return _adding(command, _PLANNING)


def _option(name: str, kind: Any, help_text: str, default: Any = None, **more: Any) -> Decorator:
    return click.option(name, type=kind, default=default, show_default=default is not None, help=help_text, **more)


_TABLES: list[Decorator] = [
    _option("--sep", str, "Separator of the fields of text tables [default: detected]."),
    _option("--decimal", click.Choice([".", ","]), "Decimal mark of text tables [default: detected]."),
    _option("--na", str, "Words for missing values in text tables, separated by commas [default: NA, NaN, null...]."),
    _option("--drop", str, "Columns of tables to leave out, separated by commas.", default=""),
]
_PLANNING: list[Decorator] = [
    click.argument("data"),
    _option("--model", str, "The model: a built-in name or package.module:factory.", "vae"),
    _option("--out", click.Path(), "The run directory [default: runs/<data>-<model>]."),
    _option(
        "--folds",
        click.IntRange(min=2),
        "Number K of folds: each refit leaves out one K-th of the examples [default: 5].",
    ),
    _option("--repeats", click.IntRange(min=1), "Number of independent partitions into folds.", 8),
    _option("--max-repeats", click.IntRange(min=1), "Most repeats, with --target-reliability [default: 3 x repeats]."),
    click.option("--together", is_flag=True, help="Leave out identical examples together."),
    _option("--fraction", float, "Train on random subsets of this share, instead of folds."),
    _option("--leave-out", click.Choice(["labels"]), "Leave out one label at a time, instead of folds."),
    _option("--epochs", click.IntRange(min=1), "Epochs of training [default: the model's]."),
    _option(
        "--match",
        click.Choice(["steps", "epochs"]),
        "What refits share with the model trained on all examples [default: steps, or that of an existing run].",
    ),
    _option("--seed", click.IntRange(min=0), "The seed of all randomness.", 0),
    _option("--subset", click.IntRange(min=2), "Audit only N examples, drawn at random."),
    click.option(
        "--set", "settings", type=Setting(), multiple=True, help="A setting of the model, such as latent_dim=16."
    ),
    _option("--labels", click.Path(), "A file of labels (.npy, .csv, .txt, IDX), for images also with their names."),
    _option("--array", str, "Name of the array of examples in an .npz file."),
    _option("--label-array", str, "Name of the array of labels in an .npz file."),
    _option("--label-column", str, "Name of the column of labels in a table."),
    _option("--groups", click.Path(), "A file of groups, like labels: examples of one group are left out together."),
    _option("--group-column", str, "Name of the column of groups in a table, such as patient."),
    *_TABLES,
    click.option(
        "--pixels/--numbers", default=None, help="Whether bytes are 8-bit pixels [default: decided, and told]."
    ),
    _option("--score-epochs", AutoOr(several=True), "Epochs after which every example is scored.", "auto"),
    _option("--importance-samples", AutoOr(), "Draws for each log p of an auto-encoder; auto is 64.", "auto"),
    click.option("--keep-weights", is_flag=True, help="Store the weights of every refit, as auto-encoders do anyway."),
    _option("--device", str, "cpu, cuda or cuda:1 [default: CUDA if available]."),
]


def refitting(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of refits; only the target reliability changes numbers."""
    return _adding(command, _REFITTING)


def computing(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of where to compute."""
    return _adding(command, _COMPUTING)


def scoring(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the choice of estimator."""
    return _adding(command, [_ESTIMATOR])


def _adding(command: Callable[..., Any], options: list[Decorator]) -> Callable[..., Any]:
    for add in reversed(options):
        command = add(command)
    return command


_COMPUTING: list[Decorator] = [
    _option("--workers", AutoOr(), "Number of processes on this machine, which share its threads.", "auto"),
    _option("--dask", str, "Address of a dask scheduler whose workers compute, such as tcp://host:8786."),
]
_REFITTING: list[Decorator] = [
    *_COMPUTING,
    _option("--lanes", AutoOr(), "Number of networks trained in one batch.", "auto"),
    _option(
        "--target-reliability",
        click.FloatRange(0, 1, min_open=True, max_open=True),
        "Add repeats until scores reach this reliability, up to --max-repeats.",
    ),
    click.option("--recompute", is_flag=True, help="Compute damaged shards and failed refits again."),
]
_ESTIMATOR = _option(
    "--estimator",
    click.Choice(["mean_log", "log_mean", "adjusted"]),
    "mean_log: difference of mean log densities; log_mean: log ratio of mean densities (as published); adjusted: "
    "mean_log, with additional shrunken scores.",
    "mean_log",
)
POSTERIOR = _option(
    "--posterior",
    click.Choice(["auto", "amortised", "refit"]),
    "amortised: amortized posteriors, from the encoder; refit: posteriors fitted to each example; auto: decide by the "
    "measured difference.",
    "auto",
)


def attributing(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of influence."""
    return _adding(command, _ATTRIBUTING)


_ATTRIBUTING: list[Decorator] = [
    _option("--queries", click.IntRange(min=0), "Number of most memorized examples to use as queries.", 12),
    _option("--samples", click.IntRange(min=0), "Number of fresh samples of the model to use as queries.", 8),
    _option("--k", click.IntRange(min=1), "Number of proponents and opponents of each query.", 5),
    _option("--draws", click.IntRange(min=2), "Number of latent draws for each example and checkpoint.", 16),
    _option(
        "--weights",
        click.Choice(["complete", "lr", "adam"]),
        "Weights of checkpoints: complete (scores add up to the decrease of the loss), lr (learning rate) or adam.",
        "complete",
    ),
    _option(
        "--scale",
        click.Choice(["dot", "cosine", "query"]),
        "dot: no scaling; cosine: divide by the lengths of both gradients; query: by that of the training example's.",
        "dot",
    ),
    _option(
        "--examples",
        AutoOr(),
        "Number of training examples to consider, drawn at random; auto limits the time to minutes.",
        "auto",
    ),
    _option("--seed", click.IntRange(min=0), "Seed of draws, samples and the choice of examples [default: the run's]."),
    click.option("--recompute", is_flag=True, help="Compute everything again, including unfinished sums."),
]


def ablating(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of the test of locality."""
    return _adding(command, _ABLATING)


_ABLATING: list[Decorator] = [
    _option("--repeats", click.IntRange(min=1), "Number of complementary halves: twice as many networks.", 8),
    _option(
        "--share", click.FloatRange(0, 0.25, min_open=True), "Share of the examples that count as memorized.", 0.05
    ),
    _option("--baseline", click.Choice(["mean", "zero", "resample"]), "What replaces an ablated unit.", "mean"),
    _option(
        "--posterior",
        click.Choice(["refit", "fixed", "encoder"]),
        "Whether posteriors are fitted under every edit (refit), once (fixed), or not at all.",
        "refit",
    ),
    _option("--splits", click.IntRange(min=1), "Random halves on which units are chosen and judged.", 40),
    _option("--permutations", click.IntRange(min=1), "Exchanges of cases and controls.", 99),
    _option("--seed", click.IntRange(min=0), "Seed of all choices [default: the run's]."),
    _option("--workers", AutoOr(), "Number of processes that train networks.", "auto"),
    click.option("--recompute", is_flag=True, help="Compute damaged files and failed refits again."),
]


def locating(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of the search for regions."""
    return _adding(command, _LOCATING)


_LOCATING = [
    _option("--held-out", click.Path(), "Held-out examples of the population that the model is for."),
    _option("--held-out-labels", click.Path(), "A file of their labels."),
    _option("--samples", click.IntRange(min=0), "Number of samples of the model to count in each region.", 0),
    _option("--space", click.Choice(["pca", "latent", "data"]), "Where regions are looked for.", "pca"),
    _option("--features", click.Path(), "A .npy file of coordinates of the training examples, in place of --space."),
    _option("--held-out-features", click.Path(), "The same of the held-out examples."),
    _option("--cells", click.Choice(["kmeans", "hdbscan"]), "How cells are formed.", "kmeans"),
    _option("--n-cells", click.IntRange(min=1), "Number of cells of k-means [default: n / 100, from 2 to 20]."),
    _option("--regions", click.IntRange(min=1), "The largest number of regions that are named.", 10),
    _option("--metadata", click.Path(), "A table with one row per row of DATA, to group examples by its columns."),
    click.option("--by", multiple=True, help="A column of the metadata; may be repeated [default: all that divide]."),
    _option("--seed", click.IntRange(min=0), "Seed of cells, samples and permutations [default: the run's]."),
]


def a_run(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the argument that names a run directory, and whether the code that it names may be imported."""
    named = click.argument("run_directory", metavar="RUN", type=click.Path())
    trust = click.option(
        "--trust",
        is_flag=True,
        expose_value=False,
        callback=_trusted,
        help="Import code that RUN names (see docs/trust.md).",
    )
    return named(trust(command))


def _trusted(context: click.Context, _: click.Parameter, value: bool) -> None:
    context.meta[TRUST] = value


def sampling(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of checking the model of a run for copies."""
    return _adding(command, [*_SAMPLING, *_SPACE, _option("--seed", click.IntRange(min=0), _SEED)])


def checking(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of checking three sets for copies."""
    return _adding(command, [*_SETS, *_SPACE, *_CHECKING])


_SEED = "Seed of samples and tests [default: the run's]."
_SAMPLING: list[Decorator] = [
    _option(
        "--test",
        click.Path(),
        "Held-out examples of the same source [default: the first fold, with a refit without it].",
    ),
    _option("--samples", click.IntRange(min=1), "Number of samples [default: as many as held-out examples]."),
]
_SPACE: list[Decorator] = [
    _option(
        "--space",
        str,
        "Feature space of distances: raw, pooled, spectrum (for shifted and mirrored images), pca, pca:K, or "
        "package.module:function; for a run also latent.",
        "raw",
    ),
    _option(
        "--level",
        click.FloatRange(0, 1, min_open=True, max_open=True),
        "False-discovery rate of the listed samples and training examples.",
        0.1,
    ),
]
_SETS: list[Decorator] = [
    _option("--train", click.Path(), "Training set of the model.", required=True),
    _option("--test", click.Path(), "Held-out examples of the same source.", required=True),
    _option("--samples", click.Path(), "Samples of the model.", required=True),
    _option("--array", str, "Name of the array in .npz files: one name, or three separated by commas."),
    _option(
        "--categorical",
        str,
        "Columns of tables whose numbers are codes, separated by commas; text is always categorical.",
    ),
    _option("--scale", click.Choice(["range", "spread"]), "Scale numeric columns, for equal weights of all columns."),
    _option("--id-column", str, "A column of tables that only identifies rows."),
    _option("--group-column", str, "A column of tables that says which rows belong together, such as patient."),
    _option("--groups", click.Choice(["folders"]), "Images in one subfolder belong together."),
    *_TABLES,
    _option("--image-shape", Shape(), "Height and width of images given as flat rows: 28x28 or 32x32x3."),
]
_CHECKING: list[Decorator] = [
    _option("--out", click.Path(), "The folder of the report [default: runs/<samples>-copycheck]."),
    _option("--seed", click.IntRange(min=0), "The seed of all randomness.", 0),
    _option("--fail-if", str, 'Exit with 1 if this condition holds: "copied_share_low > 0.01".'),
    click.option("--redact", is_flag=True, help="Show only row numbers and distances: no pictures, values or names."),
]
