"""Drops of simulated networks, with or without units that hold memorized examples."""

import numpy as np

from genmem.neurons.judge import Evidence

LAYERS = np.repeat([0, 1], [16, 32])


def evidence(rng, repeats=8, pairs=24, local=0.0, unusual=0.0, planted=3, layers=LAYERS):
    """Return two networks a repeat, with their own planted units.

    `local`: nats by which each planted unit matters more to an example that the network memorized. `unusual`: nats by
    which each planted unit matters more to would-be-memorized examples, trained on or not.
    """
    return [_network(rng, number // 2, pairs, local, unusual, planted, layers) for number in range(2 * repeats)]


def _network(rng, repeat, pairs, local, unusual, planted, layers):
    units, a = len(layers), 24
    memorized_in, memorized_out, low_in, low_out = (np.arange(pairs) + k * pairs for k in range(4))
    m = 4 * pairs + 2 * a
    size = rng.gamma(2.0, 0.4, units)
    drops = size * rng.gamma(2.0, 0.5, (m, units)) + rng.normal(0, 0.2, (m, units))
    at = rng.choice(units, planted, replace=False)
    drops[np.ix_(memorized_in, at)] += local + unusual
    drops[np.ix_(memorized_out, at)] += unusual
    pairs_of = {
        "out": np.c_[memorized_in, memorized_out],
        "in": np.c_[memorized_in, low_in],
        "held out": np.c_[memorized_out, low_out],
        "not memorized": np.c_[low_in, low_out],
    }
    damage = (np.arange(a) + 4 * pairs, np.arange(a) + 4 * pairs + a)
    return Evidence(drops, layers, size, pairs_of, damage, repeat)
