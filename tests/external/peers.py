"""Influence by captum and kronfluence: what it takes to get plain products of per-example gradients from them.

Both are imported when they are called.
"""

import copy
import warnings

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class BatchFirst(nn.Module):
    """The network of a VAE, called with noise (batch, draws, latent), whose decoder sees (batch, draws, features).

    That is what both libraries can read: the first dimension counts the examples, in every layer.
    """

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x, noise):
        """Return the loss of each example."""
        module = self.module
        mean, log_variance = module.posterior(x)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1)
        z = mean[:, None] + (0.5 * log_variance).exp()[:, None] * noise
        flat, output = module._without_constants(x.flatten(1)), module.decoder(z).transpose(0, 1)
        return module.beta * kl - module.likelihood.log_prob(flat, output, module._log_variance()).mean(0)


# --- captum


def captum_tracin(module, tensors, *, hooks=False, batch_size=1, dense=True):
    """captum's TracInCP at the parameters that a network has, with weight 1.

    `module(*tensors)` is the loss of each example. A label comes last in captum's batches: one that is ignored.
    captum views gradients as rows, which fails on the strides that those of convolutions may have, unless `dense`.
    """
    from captum.influence import TracInCP

    module = copy.deepcopy(module)
    for parameter in module.parameters() if dense else ():
        parameter.register_hook(torch.Tensor.contiguous)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*has no .reduction. attribute")
        return TracInCP(
            module,
            DataLoader(labelled(tensors), batch_size),
            checkpoints=["now"],
            checkpoints_load_func=lambda *_: 1.0,
            loss_fn=None,
            sample_wise_grads_per_batch=hooks,
        )


def labelled(tensors):
    return TensorDataset(*tensors, torch.zeros(len(tensors[0])))


def captum_influence(tracin, queries):
    """Products with the examples of `tracin`: (examples, queries)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Input Tensor \d+ did not already require gradients")
        return tracin.influence((*queries, torch.zeros(len(queries[0]))), k=None).T.detach()


def captum_self_influence(tracin):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Input Tensor \d+ did not already require gradients")
        return tracin.self_influence(outer_loop_by_checkpoints=True).detach()


# --- kronfluence


class Kronfluence:
    """kronfluence without a curvature: strategy "identity", damping 0.

    A copy of the network is prepared, for kronfluence freezes its parameters and wraps its layers.
    """

    def __init__(self, module, folder):
        from kronfluence.analyzer import Analyzer, prepare_model
        from kronfluence.task import Task

        class Losses(Task):
            def compute_train_loss(self, batch, model, sample=False):
                return model(*batch).sum()

            def compute_measurement(self, batch, model):
                return model(*batch).sum()

        task = Losses()
        self.dtype = next(module.parameters()).dtype
        self.model = prepare_model(copy.deepcopy(module), task)
        self.analyzer = Analyzer(
            "influence", self.model, task, cpu=True, disable_tqdm=True, output_dir=str(folder), log_level=40
        )

    def influence(self, tensors, queries, *, batch_size=4096, query_batch_size=4096):
        """Products: (examples, queries)."""
        self.analyzer.compute_pairwise_scores(
            scores_name="pairs",
            factors_name=self._factors(tensors),
            query_dataset=TensorDataset(*queries),
            train_dataset=TensorDataset(*tensors),
            per_device_query_batch_size=min(len(queries[0]), query_batch_size),
            per_device_train_batch_size=min(len(tensors[0]), batch_size),
            score_args=self._arguments(),
            overwrite_output_dir=True,
        )
        return self.analyzer.load_pairwise_scores("pairs")["all_modules"].T

    def self_influence(self, tensors, *, batch_size=4096):
        self.analyzer.compute_self_scores(
            scores_name="own",
            factors_name=self._factors(tensors),
            train_dataset=TensorDataset(*tensors),
            per_device_train_batch_size=min(len(tensors[0]), batch_size),
            score_args=self._arguments(),
            overwrite_output_dir=True,
        )
        return self.analyzer.load_self_scores("own")["all_modules"]

    def _arguments(self):
        from kronfluence.arguments import ScoreArguments

        names = ("per_sample_gradient_dtype", "precondition_dtype", "score_dtype")
        return ScoreArguments(damping_factor=0.0, **dict.fromkeys(names, self.dtype))

    def _factors(self, tensors):
        from kronfluence.arguments import FactorArguments

        self.analyzer.fit_all_factors(
            factors_name="none",
            dataset=TensorDataset(*tensors),
            per_device_batch_size=1,
            factor_args=FactorArguments(strategy="identity"),
            overwrite_output_dir=True,
        )
        return "none"
