"""The terms of each example in the traces of a Pyro model/guide pair.

A trace lists the sample statements ("sites") of one run. Those inside the plate named "data" are local and have a term
for each example; the others are shared by all examples (global latents).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from genmem.errors import ModelError

PLATE = "data"
Program = Callable[[Tensor], Any]
Site = Any  # a message of Pyro: a dict


@dataclass(frozen=True)
class Terms:
    """log p(x, latents) - log q(latents), nats: `local` terms (batch,), and `shared` ones ()."""

    local: Tensor
    shared: Tensor


def traces(model: Program, guide: Program, x: Tensor) -> tuple[Trace, Trace]:
    """Run the guide, then the model with the latents it drew; return both traces with their log densities."""
    guided = poutine.trace(guide).get_trace(x)
    modelled = poutine.trace(poutine.replay(model, trace=guided)).get_trace(x)
    guided, modelled = prune_subsample_sites(guided), prune_subsample_sites(modelled)
    guided.compute_log_prob()
    modelled.compute_log_prob()
    return modelled, guided


def terms(modelled: Trace, guided: Trace, batch: int, *, scaled: bool) -> Terms:
    """Return the terms of each example and the shared ones, with or without the scales of `poutine.scale`.

    A plate that represents more examples than the batch scales its sites up; here each example counts once.
    """
    log_p = _summed(modelled, batch, scaled)
    log_q = _summed(guided, batch, scaled)
    return Terms(log_p.local - log_q.local, log_p.shared - log_q.shared)


def _summed(trace: Trace, batch: int, scaled: bool) -> Terms:
    found = Terms(torch.zeros(()), torch.zeros(()))
    for site in sites(trace):
        log_prob, frame = _log_prob(site, scaled), frame_of(site)
        if frame is None:
            found = Terms(found.local, found.shared + log_prob.sum())
        else:
            share = frame.size / frame.full_size if scaled else 1.0
            found = Terms(found.local + share * by_example(log_prob, frame.dim, batch), found.shared)
    return found


def _log_prob(site: Site, scaled: bool) -> Tensor:
    log_prob: Tensor = site["log_prob"]
    if not scaled:
        log_prob = scale_and_mask(site["unscaled_log_prob"], scale=1.0, mask=site["mask"])
    return log_prob


def by_example(log_prob: Tensor, dim: int, batch: int) -> Tensor:
    """Return the sum over all dimensions but that of the plate, `dim` < 0: (batch,)."""
    if log_prob.dim() < -dim:
        return log_prob.sum().expand(batch)
    return log_prob.movedim(dim, 0).flatten(1).sum(1) if log_prob.dim() > 1 else log_prob


def sites(trace: Trace) -> Iterator[Site]:
    """Yield the sample statements of a trace; `pyro.deterministic` has no density and is left out."""
    for site in trace.nodes.values():
        if site["type"] == "sample" and not (site["infer"] or {}).get("_deterministic"):
            yield site


def value_of(trace: Trace, name: str) -> Tensor:
    """Return the value drawn or observed at a site."""
    value = trace.nodes[name]["value"]
    assert isinstance(value, Tensor)
    return value


def frame_of(site: Site) -> Any:
    """Return the frame of the plate "data" around a site (its dim, size and full_size), or None outside the plate."""
    return next((frame for frame in site["cond_indep_stack"] if frame.name == PLATE), None)


# --- the contract of a pair


@dataclass(frozen=True)
class Structure:
    """The structure of a pair: the observed site, and the latents inside ("local") and outside the plate."""

    observed: str
    local: tuple[str, ...]
    shared: tuple[str, ...]


def structure(modelled: Trace, guided: Trace, x: Tensor) -> Structure:
    """Return the structure of a pair from its traces on x, (batch, *event).

    Raises:
        ModelError: the pair cannot be trained or scored example by example; the message says why.
    """
    of_model, of_guide = list(sites(modelled)), list(sites(guided))
    for site in (*of_model, *of_guide):
        _check_plates(site, len(x))
    observed = _observed_site(of_model, x)
    latent = {site["name"]: site for site in of_model if not site["is_observed"]}
    drawn = {site["name"]: site for site in of_guide if not site["is_observed"]}
    _check_latents(latent, drawn)
    local = tuple(name for name, site in latent.items() if frame_of(site) is not None)
    return Structure(observed["name"], local, tuple(name for name in latent if name not in local))


def _check_plates(site: Site, batch: int) -> None:
    name, frame = site["name"], frame_of(site)
    for other in site["cond_indep_stack"]:
        if other.dim is None:
            raise _refuse(
                "plates as `with` blocks",
                f"the loop over plate {other.name!r} around site {name!r}",
                f'Write `with pyro.plate("{other.name}", ...):` and give the site a batch of values.',
            )
        if other.name != PLATE and other.size != other.full_size:
            raise _refuse(
                'plates other than "data" to contain everything they represent',
                f"plate {other.name!r} with {other.size} of {other.full_size} around site {name!r}",
                "Drop its subsampling: log p of an example covers all its values.",
            )
    if frame is not None and frame.size != batch:
        raise _refuse(
            f'the plate "data" to hold the batch: {batch} examples',
            f"one of {'no size' if frame.size < 0 else frame.size} around site {name!r}",
            'Write `pyro.plate("data", len(x))`: batches are drawn outside the model. For a fixed number of examples, '
            '`pyro.plate("data", total, subsample=x)`. A guide with parameters for each example (AutoNormal of latents '
            "inside the plate) has none for held-out examples: compute them from x.",
        )
    if frame is not None and site["log_prob"].dim() and site["log_prob"].shape[frame.dim] != batch:
        raise _refuse(
            f"site {name!r} to have {batch} values along the plate", f"{tuple(site['log_prob'].shape)}", "Check shapes."
        )


def _observed_site(of_model: list[Site], x: Tensor) -> Site:
    found = [site for site in of_model if site["is_observed"] and frame_of(site) is not None]
    if not found:
        raise _refuse(
            'an observed site inside a plate named "data"',
            f"none (sites: {', '.join(repr(site['name']) for site in of_model) or 'none'})",
            'Write `with pyro.plate("data", len(x)): pyro.sample("x", ..., obs=x)` in the model.',
        )
    fitting = [site for site in found if is_x(site, x)]
    if len(found) > 1 or not fitting:
        names = ", ".join(f"{site['name']!r} {tuple(site['value'].shape)}" for site in found)
        names += " with other values" if len(found) == 1 else ""
        raise _refuse(
            f"one observed site inside the plate, whose values are those of x {tuple(x.shape)}",
            names,
            "Observe x itself, once: write a density of transformed data as a TransformedDistribution, several parts "
            "of x as one joint distribution, and avoid `pyro.factor` inside the plate.",
        )
    return found[0]


def is_x(site: Site, x: Tensor) -> bool:
    """Return whether an observed site has the values of x, in the order of x once its plate comes first."""
    values = from_plate(site, site["value"])
    return values.shape == (len(x), x[0].numel()) and bool((values == x.flatten(1)).all())


def from_plate(site: Site, value: Tensor) -> Tensor:
    """Return the values of a site with the plate's dimension first and all others flat: (batch, size)."""
    frame = frame_of(site)
    first = value.movedim(frame.dim - site["fn"].event_dim, 0)
    return first.reshape(len(first), -1)


def _check_latents(latent: dict[str, Site], drawn: dict[str, Site]) -> None:
    for name, site in drawn.items():
        if not getattr(site["fn"], "has_rsample", False):
            kind = type(site["fn"]).__name__
            raise _refuse(
                "latents that the guide draws from reparameterized, continuous distributions",
                f"site {name!r}, {kind}",
                "Marginalize a discrete latent exactly, for example with MixtureSameFamily; for a continuous one use a"
                " distribution with rsample. Other gradients (score function, enumeration) are not supported.",
            )
        if name not in latent and not site["infer"].get("is_auxiliary"):
            raise _refuse(
                "every latent of the guide to be one of the model",
                f"{name!r} in the guide only",
                "Use one name for both.",
            )
    for name, site in latent.items():
        if name not in drawn:
            raise _refuse(
                "every latent of the model to be drawn by the guide",
                f"{name!r} in the model only",
                "Draw it in the guide too. A discrete latent must be marginalized, for example with MixtureSameFamily.",
            )
        if (frame_of(site) is None) != (frame_of(drawn[name]) is None):
            raise _refuse(
                f"site {name!r} inside the plate in both model and guide, or in neither",
                "one that is inside in one of them only",
                "Move it into the plate in both, or out of it in both.",
            )


def check_points(modelled: Trace, guided: Trace, again: Trace) -> None:
    """Check that no latent of an example is a point: a Delta in the guide that does not move with an auxiliary draw.

    A Delta of a draw with a density, f(u) of an auxiliary u, is how Pyro writes a transformed distribution.

    Args:
        modelled: the trace of the model.
        guided: that of the guide.
        again: of the guide with other random numbers, on the same examples.

    Raises:
        ModelError: one is.
    """
    local = [site for site in sites(guided) if frame_of(site) is not None]
    drawn = any(not _is_delta(site["fn"]) for site in local)
    for site in local:
        name = site["name"]
        if not _is_delta(site["fn"]) or name in modelled.nodes and _is_delta(modelled.nodes[name]["fn"]):
            continue
        if not drawn or torch.equal(value_of(guided, name), value_of(again, name)):
            raise _refuse(
                "a guide that draws the latents of each example from a distribution with a density",
                f"site {name!r}, a Delta: one point for each example",
                "log p(x, z) at a point is neither log p(x) nor a bound on it: for a narrow posterior it is higher. "
                "Draw from a Normal around the point, with a scale computed from x. (Latents that all examples share "
                "may be points.)",
            )


def _is_delta(distribution: Any) -> bool:
    """Return whether a distribution is a Delta, also one that is reshaped, masked or transformed."""
    while hasattr(distribution, "base_dist") and not isinstance(distribution, dist.Delta):
        distribution = distribution.base_dist
    return isinstance(distribution, dist.Delta)


def _refuse(expected: str, got: str, do: str) -> ModelError:
    return ModelError(expected=expected, got=got, do=do)
