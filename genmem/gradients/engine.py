"""Per-example gradients of any network whose forward pass returns a loss for each example, and their products.

    gradients = PerExampleGradients(module, X, noise=noise)
    print(gradients.coverage)
    scores = inner(gradients.features(X, noise), gradients.features(Z, other_noise))  # (len(X), len(Z))

Numbers do not depend on how examples are cut into batches, up to the rounding of the network's own precision (about
1e-6 of |g_x| |g_z| in float32); sums over layers and terms are float64.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from genmem.errors import ModelError
from genmem.gradients import fallback, probe
from genmem.gradients.alone import cause_of_none, gradients_kept, refuse_changing, refuse_mixing_at, working
from genmem.gradients.factored import Rows
from genmem.gradients.fallback import (
    Loss,
    PerExampleLoss,
    dense,
    differ,
    lengths,
    loop_rows,
    refuse_constant,
    refuse_mixed,
    refuse_shape,
    refuse_unfit,
    refuse_used,
    refuse_wrong,
    see_each_other,
    vmap_rows,
)
from genmem.gradients.hooks import backward, noted
from genmem.gradients.own_noise import by_row
from genmem.gradients.probe import Coverage, Reading
from genmem.gradients.products import Direction, Features, along
from genmem.training.ensemble import isolated_streams

TRIED = 3  # examples
MIDDLE = 1  # of them: if a network takes examples for a sequence, this one sees another, in either direction


class PerExampleGradients:
    """The gradients of each example's loss with respect to the parameters of a network.

    How each gradient is computed is determined here, once; after other parameters are loaded into the network, `renew`.

    Args:
        module: a network in evaluation mode. With `noise`, it is called as `module(x, draws=, noise=)`.
        x: examples to test the network on, (n, *event); three are used.
        noise: (draws, n, *noise_shape) or None, of the form that `features` will receive; any values.
        loss: `loss(module, x) -> (batch,)`, or `loss(module, x, noise)` with noise; None: the network returns it.
        hooks: False computes all gradients by `vmap`.

    Attributes:
        coverage: how each parameter's gradient is computed.

    Raises:
        ModelError: examples of a batch influence each other (batch normalization in training mode), the loss is not one
            number for each example, or it does not depend on any trained parameter.

    >>> x = torch.arange(12.0).view(4, 3)
    >>> gradients = PerExampleGradients(nn.Linear(3, 2), x, loss=lambda module, x: module(x).square().sum(1))
    >>> print(gradients.coverage)
    100% of 8 parameters (8 by hooks)
    """

    coverage: Coverage

    def __init__(
        self, module: nn.Module, x: Tensor, *, noise: Tensor | None = None, loss: Loss | None = None, hooks: bool = True
    ) -> None:
        self.module, self.loss = module, PerExampleLoss(module, loss)
        self.trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        refuse_unfit(module, self.trained)
        self._hooks = hooks
        with working():
            self._examples = self._tried(x, noise)
            self._tried_draws = 2 if noise is None and self.loss.takes_draws() else 1
            self._try_out()

    def renew(self) -> None:
        """Continue with the network's current parameters: the methods stay, unless the gradient of an example differs.

        It is compared with a plain backward pass, and with that of the example alone; if it differs, all methods are
        determined again.

        Raises:
            ModelError: see above.
        """
        with working():
            if not self._still_right():
                self._try_out()
        self._verified = self._verified_along = False

    def _try_out(self) -> None:
        self._largest = TRIED
        refuse_changing(self.module, self._try, TRIED)
        self._draws_own = self._finds_own_draws()
        if self._draws_own:
            self._tried_draws = 2
            self.loss.repeats = self.loss.loops() and by_row(lambda x: self._run(x, None), self._examples[0])
        self._refuse_mixed(range(TRIED))
        self._verified = self._verified_along = False
        self._way_along: str | None = None
        self._find_ways()

    # --- results

    def features(self, x: Tensor, noise: Tensor | None = None, *, draws: int = 1, seed: int = 0) -> Features:
        """Return the gradients of each example, averaged over draws, as `inner` and similar functions take them.

        Args:
            x: examples, (n, *event).
            noise: (draws, n, *noise_shape) for networks that take noise.
            draws: of networks that draw their own noise.
            seed: of the noise that a network draws itself; the noise then depends on the other rows of the batch.
        """
        return self._features(x, noise, draws, seed, 1)

    def features_by_draw(self, x: Tensor, noise: Tensor | None, *, draws: int | None = None, seed: int = 0) -> Features:
        """Return a gradient for each draw, or for each of `draws` blocks of draws: the input of `gram`.

        Args:
            x: examples, (n, *event).
            noise: (draws or a multiple, n, *noise_shape).
            draws: number of gradients of an example; None: one for each draw of the noise.
            seed: see `features`.

        Raises:
            ModelError: the draws of the noise cannot be divided into this number of equal blocks.
        """
        total = draws if noise is None else len(noise)
        draws = total if draws is None else draws
        if draws is None or total is None or draws < 1 or total % draws:
            raise ModelError(
                expected="a number of draws that divides those of the noise",
                got=f"draws={draws}, noise for {total}",
                do="Change draws, or pass noise with a multiple of it.",
            )
        many = x.repeat_interleave(draws, 0)
        if noise is not None:
            cut = noise.reshape(draws, -1, *noise.shape[1:]).movedim(
                0, 2
            )  # (draws of a block, n, blocks, *noise_shape)
            noise = cut.flatten(1, 2)
        return self._features(many, noise, 1, seed, draws)

    def gradient(
        self, x: Tensor, noise: Tensor | None = None, *, weights: Tensor | None = None, draws: int = 1, seed: int = 0
    ) -> dict[str, Tensor]:
        """Return the gradient of the sum of losses, weighted if requested, by parameter: one ordinary backward pass."""
        x, noise = self._cast(x, noise)
        self._refuse_mixing(x, noise, draws, seed)
        with torch.enable_grad():
            losses = self._run(x, noise, draws=draws, seed=seed)
        total = losses.sum() if weights is None else (losses * weights.to(losses)).sum()
        _, found = backward(total, (), list(self.trained.values()))
        return {name: dense(g, p).detach() for g, (name, p) in zip(found, self.trained.items(), strict=True)}

    def along(
        self, x: Tensor, direction: Direction, noise: Tensor | None = None, *, draws: int = 1, seed: int = 0
    ) -> Tensor:
        """Return <g_x, v> of each example by one forward-mode pass, without any gradient: (n,), float64.

        Two backward passes replace it if the first direction shows that forward mode is wrong for this network, and
        gradients of each example if the network cannot be differentiated twice.

        Args:
            x: examples, (n, *event).
            direction: v by parameter, such as `gradient` of a query or of a group of them, scaled by a
                preconditioner if there is one; parameters that are left out count as 0.
            noise: see `features`.
            draws: see `features`.
            seed: see `features`.
        """
        x, noise = self._cast(x, noise)
        self._refuse_mixing(x, noise, draws, seed)
        if self._way_along is None or not (self._verified_along or self._still_right_along(direction)):
            self._way_along = self._find_way_along(direction)
        self._verified_along = True
        return self._along(x, direction, noise, draws, seed, self._way_along).to(torch.float64)

    def _along(self, x: Tensor, direction: Direction, noise: Tensor | None, draws: int, seed: int, way: str) -> Tensor:
        if way == "features":
            found = self._features(x, noise, draws, seed, 1)
            return along(
                Features({name: p for name, p in found.pieces.items() if name in direction}, len(x)), direction
            )
        if way == "forward":
            with self._streams(x, noise, seed):
                return fallback.forward_mode(self.loss, direction, x, noise, draws)
        with torch.enable_grad():
            losses = self._run(x, noise, draws=draws, seed=seed)
        return fallback.twice_backward(losses, self.trained, direction)

    def _find_way_along(self, direction: Direction) -> str:
        """Return the first method that works for this network."""
        if self._forward_mode_is_right(direction, range(TRIED)):
            return "forward"
        x, noise = self._examples
        try:
            self._along(x, direction, noise, 1, 0, "twice")
        except RuntimeError:  # some operations have no second derivative
            return "features"
        return "twice"

    def _still_right_along(self, direction: Direction) -> bool:
        return self._way_along != "forward" or self._forward_mode_is_right(direction, [MIDDLE])

    def _forward_mode_is_right(self, direction: Direction, some: Sequence[int]) -> bool:
        """Test it: some operations have no forward mode, and in this mode embeddings ignore which row is padding."""
        if any(isinstance(m, nn.Embedding) and m.padding_idx is not None for m in self.module.modules()):
            return False
        x, noise = self._examples
        try:
            found = self._along(x, direction, noise, 1, 0, "forward")[some]
        except (RuntimeError, NotImplementedError):
            return False
        with torch.enable_grad():
            losses = self._run(x, noise, seed=0)[some]
        rows = fallback.loop_rows(losses, {name: self.trained[name] for name in direction})
        truth = sum(
            (rows[name] @ direction[name].flatten().to(rows[name]) for name in direction), torch.zeros_like(found)
        )
        norms = sum((rows[name].square().sum(1) for name in direction), torch.zeros_like(found)).sqrt()
        length = sum(float(v.square().sum()) for v in direction.values()) ** 0.5
        return bool(((found - truth).abs() <= 4000 * torch.finfo(found.dtype).eps * norms * length).all())

    # --- one batch

    def _features(self, x: Tensor, noise: Tensor | None, draws: int, seed: int, by_draw: int) -> Features:
        x, noise = self._cast(x, noise)
        self._refuse_mixing(x, noise, draws, seed)
        n = len(x)
        layers = {layer: self._layers[layer] for layer, _ in self._reading.names}
        copies = fallback.copies_of(self.trained, self._copied, n)
        with noted(layers) as calls:
            losses = self._run(x, noise, draws=draws, seed=seed, parameters=copies)
        refuse_shape(losses, n)
        looped = {name: self.trained[name] for name in self.coverage.loop}
        checked = {} if self._verified else dict(self.trained)
        unused = [self.trained[name] for name in self.coverage.unused]
        others = [*copies.values(), *unused, *checked.values()]
        backs, found = backward(losses.sum(), calls, others, keep=bool(looped))
        rows = {name: dense(g, copies[name]).reshape(n, -1) for name, g in zip(copies, found, strict=False)}
        found = found[len(copies) :]
        refuse_used(dict(zip(self.coverage.unused, found, strict=False)))
        with torch.no_grad():
            pieces = probe.read(self.module, self._reading, calls, backs, n)
            for name in self.coverage.hooks.keys() - pieces.keys():
                pieces[name] = Rows(losses.new_zeros(n, self.trained[name].numel()))
        rows |= loop_rows(losses, looped) if looped else {}
        if self.coverage.vmap:
            rows |= self._mapped(list(self.coverage.vmap), x, noise, draws, seed)
        pieces |= {name: Rows(values) for name, values in rows.items()}
        truth = dict(zip(checked, found[len(unused) :], strict=True))
        if checked and copies:  # contributions through copies always add up
            truth |= self.gradient(x, noise, draws=draws, seed=seed)
        refuse_wrong(pieces, truth)
        self._verified = True
        return Features({name: pieces[name] for name in self.trained if name in pieces}, n, by_draw)

    def _run(
        self,
        x: Tensor,
        noise: Tensor | None,
        *,
        draws: int = 1,
        seed: int = 0,
        parameters: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Return the losses, with some parameters replaced."""
        with self._streams(x, noise, seed):
            if parameters:
                return self.loss.under(parameters, x, noise, draws)
            result: Tensor = self.loss(x, noise, draws)
            return result

    def _mapped(
        self, names: Sequence[str], x: Tensor, noise: Tensor | None, draws: int, seed: int
    ) -> dict[str, Tensor]:
        own = (lambda: self._streams(x, noise, seed)) if self._draws_own else None
        return vmap_rows(self.loss, names, x, noise, draws=draws, streams=own)

    def _streams(self, x: Tensor, noise: Tensor | None, seed: int) -> AbstractContextManager[None]:
        """Seed torch's global streams, which all threads share, for networks that draw from them."""
        return isolated_streams(x.device, seed) if noise is None else nullcontext()

    def _cast(self, x: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor | None]:
        like = next(iter(self.trained.values()))
        floats = x.is_floating_point() or x.dtype in (torch.uint8, torch.bool)
        x = x.to(like.device, like.dtype if floats else x.dtype)
        return x, None if noise is None else noise.to(like)

    # --- how gradients are computed

    def _tried(self, x: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return three examples, far from one another, with two draws, so that no layout is mistaken for another."""
        rows = torch.linspace(0, len(x) - 1, TRIED).round().long()
        x = x[rows.to(x.device)]
        if noise is not None:
            noise = torch.cat([noise[:, rows.to(noise.device)], -noise[:, rows.to(noise.device)]])[:: len(noise)]
        return self._cast(x, noise)

    def _try(self, parameters: Mapping[str, Tensor] | None = None, seed: int = 0) -> Tensor:
        return self._run(*self._examples, draws=self._tried_draws, seed=seed, parameters=parameters)

    def _finds_own_draws(self) -> bool:
        x, noise = self._examples
        if noise is not None:
            return False
        with torch.no_grad():
            first, second = self._try(), self._try(seed=1)
        refuse_shape(first, len(x))
        return not torch.equal(first, second)

    def _still_right(self) -> bool:
        """Return whether the gradient of one example equals that of autograd, in its batch and alone."""
        (x, noise), self._verified = self._examples, True
        if self._finds_own_draws() != self._draws_own:
            return False
        try:
            losses = self._refuse_mixed([MIDDLE])
            found = self._features(x, noise, self._tried_draws, 0, 1)
        except ModelError:
            return False
        truth = loop_rows(losses[[MIDDLE]], self.trained)
        rows = {name: piece.dense(0, len(x))[[MIDDLE]] for name, piece in found.pieces.items()}
        return all(probe.agree(row, truth[name], lengths(truth)) for name, row in rows.items())

    def _find_ways(self) -> None:
        (x, noise), hooks = self._examples, self._hooks
        here = probe.probe(self.module, self._try, self.trained, moved=False)
        assert here is not None
        there = probe.probe(self.module, self._try, self.trained, moved=True) if hooks else None
        probes = [here] if there is None else [here, there]
        nothing = Reading({}, {})
        with torch.no_grad():
            self._reading = probe.reading_of(self.module, probes, self.trained) if hooks else nothing
        self._layers = probe.layers_of(self.module)
        read = set(self._reading.names.values())
        unused = [name for name in self.trained if hooks and name not in here.used and name not in read]
        rest = [name for name in self.trained if name not in read and name not in unused]
        self._copied = probe.by_copies(self._try, rest, self.trained, probes) if hooks else {}
        rest = [name for name in rest if name not in self._copied]
        mapped = probe.by_vmap(lambda names: self._mapped(names, x, noise, self._tried_draws, 0), rest, here)
        looped = [name for name in rest if name not in mapped]
        self.coverage = self._coverage(
            {"hooks": read, "copies": self._copied, "vmap": mapped, "loop": looped, "unused": unused}
        )

    def _coverage(self, ways: Mapping[str, Collection[str]]) -> Coverage:
        sizes = {name: p.numel() for name, p in self.trained.items()}
        return Coverage(
            **{way: {name: size for name, size in sizes.items() if name in names} for way, names in ways.items()},
            frozen={name: p.numel() for name, p in self.module.named_parameters() if not p.requires_grad},
        )

    def _refuse_mixed(self, some: Sequence[int]) -> Tensor:
        """Refuse a loss that is not one number per example, or depends on others of its batch; return all losses."""
        x, _ = self._examples
        with torch.enable_grad():
            x = x.requires_grad_() if x.is_floating_point() and self._draws_own else x
            with gradients_kept():
                losses = self._try()
        refuse_shape(losses, len(x))
        refuse_constant(losses, self.trained, lambda: cause_of_none(losses, self.module, self._try))
        refuse_mixed(see_each_other(losses, x, some) if self._draws_own else self._differ_alone(losses, some))
        return losses

    def _refuse_mixing(self, x: Tensor, noise: Tensor | None, draws: int, seed: int) -> None:
        """Refuse a loss that mixes examples in a batch larger than those seen so far."""
        if len(x) > self._largest:
            self._largest = len(x)
            refuse_mixing_at(lambda x: self._run(x, noise, draws=draws, seed=seed), x, self.trained)

    def _differ_alone(self, losses: Tensor, some: Sequence[int]) -> bool:
        """Return whether any of some losses has another gradient in this batch than alone, by more than rounding.

        All three are examined first: in a network that takes the batch for a sequence, one of them sees no other.
        """
        x, noise = self._examples
        alone = [(x[i : i + 1], None if noise is None else noise[:, i : i + 1]) for i in some]
        try:
            with torch.enable_grad():
                others = torch.cat([self._run(*one, draws=self._tried_draws) for one in alone])
        except Exception:  # a batch of one is refused in many ways if examples are normalized together
            return True
        return differ(losses[some], others, self.trained)
