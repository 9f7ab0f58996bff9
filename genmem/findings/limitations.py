"""What an audit could have missed: a sentence or two for each limitation that applies to a run."""

import json
from collections.abc import Callable
from typing import Any

from genmem.findings.copies import copies_of
from genmem.findings.influence import influence_of
from genmem.leaveout.posterior import correction_of, estimate_of, has_encoder
from genmem.run.directory import Run


def limitations(run: Run) -> list[str]:
    """Return the limitations of a run whose stages are complete."""
    return [said for limit in LIMITS if (said := limit(run)) is not None]


def library_versions(run: Run) -> list[dict[str, str]]:
    """Return the library versions of the refits: one set, or several if libraries changed during the run."""
    return [json.loads(text) for text in dict.fromkeys(run.shard_arrays("versions").tolist())]


def has_steps(run: Run) -> bool:
    """Return whether the model of a run is trained in steps."""
    return "refit_steps" in (run.probe or {})


def posterior_asked(run: Run) -> str | None:
    """Return how log p was computed, or None for a model without an encoder."""
    if not has_encoder(run):
        return None
    if (found := correction_of(run)) is None:
        return "amortised"
    return "refit" if found["everywhere"] else "amortised, refitted for some"


def _whole(splits: dict[str, Any]) -> str:
    kind = splits["kind"]
    if kind == "subsets":
        return f"a random {1 - splits['fraction']:.0%} of the examples"
    return "a group" if kind == "leave_out" else f"one of {splits.get('folds', 'several')} folds"


def _fewer_examples(run: Run) -> str:
    return (
        f"Each refit leaves out {_whole(run.plan['splits'])} at once, not a single example. Scores are therefore those "
        "of models trained on less data."
    )


def _one_model(run: Run) -> str:
    return "A score belongs to this kind of model, trained this way. Another architecture may memorize other examples."


def _fewer_steps(run: Run) -> str | None:
    if not has_steps(run) or run.n_matched is not None:
        return None
    return (
        "Refits share the number of epochs with the model trained on all examples, and so take fewer steps. That "
        "lowers scores: a new audit matches steps by default."
    )


def _groups(run: Run) -> str | None:
    if run.data().groups is None:
        return None
    return (
        "Examples of one group were left out together. Errors of means, regions, rank correlations and attack rates "
        "are by group; shares above a threshold take examples as independent."
    )


def _copies_in_groups(run: Run) -> str | None:
    if run.data().groups is None or copies_of(run) is None:
        return None
    return (
        "Tests of copies take examples as independent. If examples of one group are alike, they may find copies where "
        "there are none."
    )


def _no_copies(run: Run) -> str | None:
    if copies_of(run) is not None:
        return None
    return (
        "Samples of the model were not compared with the training set. A model need not reproduce an example that it "
        "memorized."
    )


def _bound(run: Run) -> str | None:
    if estimate_of(run) != "bound":
        return None
    return (
        "log p stands for a lower bound on log p. A score is a difference of bounds: part of it may arise because the "
        "bound is looser for held-out examples."
    )


def _amortized(run: Run) -> str | None:
    if estimate_of(run) != "importance" or posterior_asked(run) == "refit":
        return None
    through = "the encoder" if has_encoder(run) else "an encoder or guide, if the model has one"
    return (
        f"log p is estimated with amortized posteriors, from {through}, which fits held-out examples less well. A "
        "score includes this amortization gap; more importance samples do not remove it."
    )


def _first_order(run: Run) -> str | None:
    shaped = influence_of(run)
    if shaped is None or shaped.about["method"] != "trajectory":
        return None
    return (
        "Influence is a first-order estimate along one training run. For networks, such estimates have been found to "
        "agree hardly at all with a single retraining without the example. The findings report how well this estimate "
        "agrees with the memorization score."
    )


def _two_folds(run: Run) -> str | None:
    if run.plan["splits"].get("folds") != 2 or run.repeats >= 3:
        return None
    return "With two folds there is no placebo. p-values need three repeats, or two repeats of three folds."


def _several_versions(run: Run) -> str | None:
    if len(sets := library_versions(run)) < 2:
        return None
    changed = {name: [s.get(name) for s in sets] for name in sets[0] if len({s.get(name) for s in sets}) > 1}
    return f"Refits were computed with several versions of libraries ({changed}); the report shows the first."


def _equal_noise(run: Run) -> str | None:
    if str(run.result("scores")["estimator"]) != "log_mean":
        return None
    return (
        "p-values of log_mean assume that log p of held-out examples is as noisy as that of training examples. If it "
        "is noisier, as it often is, they are too small; mean_log with three repeats does not assume it."
    )


def _one_repeat(run: Run) -> str | None:
    if run.repeats != 1:
        return None
    return (
        "One repeat gives no standard errors and tests no single example: one held-out value cannot tell memorization "
        "from noise. Membership inference has no reference models. Use folds with three repeats or more."
    )


LIMITS: tuple[Callable[[Run], str | None], ...] = (
    _fewer_examples,
    _one_model,
    _fewer_steps,
    _groups,
    _copies_in_groups,
    _no_copies,
    _bound,
    _amortized,
    _first_order,
    _two_folds,
    _several_versions,
    _equal_noise,
    _one_repeat,
)
