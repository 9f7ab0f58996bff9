"""What a user's network must not do: each is refused with what to do about it."""

import numpy as np
import oracles_custom as own
import pytest
import torch
from torch import nn
from user_networks import QUICK, normal, user_gaussian, user_vae

from genmem.errors import ModelError
from genmem.models import from_module


def scalar(network, x):
    return own.gaussian_nll(network, x).mean()


def spread_mean(network, x):
    return own.gaussian_nll(network, x).mean().expand(len(x))


def per_value(network, x):
    return (x - network.mean).square()


def wrong_length(network, x):
    return own.gaussian_nll(network, x)[1:]


def one_column(network, x):
    return own.gaussian_nll(network, x)[:, None]


def over_examples(network, x):
    return (x - network.mean).square().sum(0)


def not_finite(network, x):
    return own.gaussian_nll(network, x) / 0


def no_gradient(network, x):
    return own.gaussian_nll(network, x).detach()


def an_array(network, x):
    return own.gaussian_nll(network, x).detach().numpy()


def raises(network, x):
    raise ValueError("out of cheese")


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (scalar, "a single number"),
        (per_value, r"shape \(7, 3\)"),
        (wrong_length, r"shape \(6,\)"),
        (one_column, r"shape \(7, 1\)"),
        (over_examples, r"shape \(3,\)"),
        (not_finite, "a finite loss"),
        (no_gradient, "without a gradient"),
        (an_array, "ndarray"),
        (raises, "ValueError: out of cheese"),
    ],
)
def test_losses_that_cannot_be_used(loss, message):
    with pytest.raises(ModelError, match=message):
        user_gaussian(loss=loss).fit(normal())


def test_square_data_do_not_hide_a_sum_over_the_wrong_axis():
    with pytest.raises(ModelError, match="one number for each example"):
        user_gaussian(loss=over_examples).fit(normal(n=7, shape=(7,)))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (scalar, "a single number"),
        (spread_mean, "does not depend on the others"),
        (per_value, r"shape \(7, 3\)"),
        (raises, "out of cheese"),
        (lambda network, x: own.gaussian_nll(network, x) * np.nan, "to be a number"),
        (lambda network, x: own.gaussian_nll(network, x) > 0, "bool"),
    ],
)
def test_log_probs_that_cannot_be_used(function, message):
    with pytest.raises(ModelError, match=message):
        user_gaussian(log_prob=function).fit(normal())


def test_log_weights_that_cannot_be_used():
    with pytest.raises(ModelError, match=r"\(2, 7\)"):
        user_vae(log_weights=lambda network, x, draws: own.importance_weights(network, x, draws).T).fit(normal())


SHARED = own.Gaussian((3,))
TRAINED = own.UserVAE((3,)).state_dict()


def trained_before(shape):
    network = own.UserVAE(shape)
    network.load_state_dict(TRAINED)
    return network


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda shape: None, "got NoneType"),
        (lambda shape: own.Gaussian, "got the class Gaussian"),
        (lambda shape: nn.Flatten(), "none that require a gradient"),
        (lambda shape: SHARED, "same weights in two networks"),
        (lambda shape: nn.Linear(shape, 3), "make_module.* to work"),
        (lambda: own.Gaussian((3,)), "make_module.* to work"),
    ],
)
def test_factories_that_cannot_be_used(make, message):
    with pytest.raises(ModelError, match=message):
        from_module(make, loss=own.gaussian_nll, bound=False, **QUICK).fit(normal())


def test_weights_that_do_not_depend_on_the_seed_are_warned_of():
    model = from_module(trained_before, loss=own.negative_elbo, bound=True, **QUICK)
    with pytest.warns(UserWarning, match="know the examples they leave out"):
        model.fit(normal())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"make_module": SHARED}, "a Gaussian that exists already"),
        ({"loss": nn.MSELoss()}, "a MSELoss that exists already"),
        ({"log_prob": SHARED.forward}, "a method of a Gaussian that exists already"),
        ({"loss": 3}, "loss to be a function; got int"),
        ({"make_module": None}, "make_module to be a function"),
        ({"sample": "x"}, "sample to be a function"),
        ({"bound": "yes"}, "bound"),
        ({"log_prob": own.gaussian_log_prob, "log_weights": own.importance_weights}, "log_weights and log_prob"),
        ({"log_weights": own.importance_weights, "bound": True}, "log_weights and bound=True"),
        ({"epochs": 0}, "epochs"),
    ],
)
def test_arguments_that_cannot_be_used(arguments, message):
    given = {"make_module": own.Gaussian, "loss": own.gaussian_nll, "bound": None, **arguments}
    if given["bound"] is None and not {"log_prob", "log_weights"} & set(given):
        given["bound"] = False
    with pytest.raises(ModelError, match=message):
        from_module(given.pop("make_module"), **given)


def test_sampling_without_a_function_says_what_to_pass():
    model = user_gaussian(sample=None).fit(normal())
    with pytest.raises(ModelError, match="sample=lambda"):
        model.sample(3)
    other = user_gaussian(sample=lambda network, n: torch.zeros(n, 2)).fit(normal())
    with pytest.raises(ModelError, match=r"\(4, 3\)"):
        other.sample(4)


def test_a_loss_that_diverges_is_an_error():
    def diverging(network, x):
        return own.gaussian_nll(network, x) + (network.mean.sum() * 1e30) ** 2 * 1e30

    with pytest.raises(ModelError, match="diverged|not finite|finite"):
        user_gaussian(loss=diverging).fit(normal())
