"""Products of per-example gradients: genmem against a loop, vmap(grad), captum and kronfluence.

Two networks on 28 x 28 images, 16 draws of the latent variables: a fully connected VAE (784-1024-512-256, 128 latent
variables, 3.0 million parameters) and the convolutional VAE. Two tasks: |g|^2 of each example, and <g, g_z> with 64
queries, g the gradient of the loss averaged over the draws. Noise is fixed, so all ways give the same numbers up to
rounding; the largest difference from genmem is printed, as a share of |g_x| |g_z|. (Long float32 sums explain those
beyond 1e-6: a norm or a matrix product of a million numbers keeps few accumulators. genmem adds up in float64.)

- network alone: forward and backward of batches, without any product: the least that any way can take.
- loop: forward and backward of one example after another. Its products with queries go one by one, or as one matrix
  product for every 32 gradients.
- vmap: torch.func.vmap(grad) over chunks; every chunk size is tried, the fastest counts.
- captum: TracInCP, one example after another ("loop") or by hooks where these read every layer.
- kronfluence: strategy "identity", damping 0, where it reads every layer.

Every way has its best batch size of those tried on a few examples. Slow ways then run on 32 and on 128 examples, and
what 96 examples add is scaled up, so that what a way does once counts once. All take turns, round by round. The peak
memory of a way is that of a process of its own, above what the network, the data and the libraries need.

captum and kronfluence are timed where they can be imported: see tests/external/README.md.
"""

import importlib.util
import multiprocessing
import resource
import statistics
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from common import from_tests, like_mnist, machine, options, parse, require, seconds, slower, spread
from torch.func import functional_call, grad, vmap

from genmem import VAE, ConvVAE
from genmem.gradients.engine import PerExampleGradients
from genmem.gradients.products import gram, inner, squared_norms, unbiased_self_influence

from_tests("external")

TASKS = ("self-influence", "queries")
NETWORKS = ("fully connected", "convolutional")


USUAL = {"draws": 16, "queries": 64, "hidden": (1024, 512, 256), "latent_dim": 128, "conv_width": 32}
TINY = {"draws": 2, "queries": 4, "hidden": (64, 32, 16), "latent_dim": 8, "conv_width": 4}


class Setting:
    """A network, its examples and its queries, each with noise (draws, n, latent)."""

    def __init__(self, network, images, n, draws, queries, conv_width, **widths):
        torch.manual_seed(0)
        self.draws, self.queries = draws, queries
        if network == "fully connected":
            model = VAE(**widths, likelihood="bernoulli", constants=())
            shape = (784,)
        else:
            model, shape = ConvVAE(width=conv_width, constants=()), (28, 28)
        self.network, self.module = network, model.make_module(shape).eval()
        rows = torch.from_numpy(images[: n + queries]).float().reshape(-1, *shape) / 255
        self.x, self.z = ((part > 0.5).float() for part in (rows[:n], rows[n:]))
        noise = torch.randn(draws, len(rows), *self.module.noise_shape, generator=torch.Generator().manual_seed(1))
        self.x_noise, self.z_noise = noise[:, :n].contiguous(), noise[:, n:].contiguous()
        self.parameters = {name: p.detach() for name, p in self.module.named_parameters()}


# --- the ways: (setting, task, n, batch) -> (n,) or (n, queries)


def by_genmem(setting, task, n, batch):
    gradients = PerExampleGradients(setting.module, setting.x, noise=setting.x_noise)
    queries = None if task == TASKS[0] else gradients.features(setting.z, setting.z_noise)
    found = []
    for i in range(0, n, batch):
        some = slice(i, min(n, i + batch))
        features = gradients.features(setting.x[some], setting.x_noise[:, some])
        found.append(squared_norms(features) if queries is None else inner(features, queries))
    return torch.cat(found)


def by_genmem_unbiased(setting, task, n, batch, blocks=4):
    blocks = min(blocks, setting.draws)
    """Self-influence without the bias of a squared average, from 4 blocks of 4 draws, and its standard error."""
    gradients = PerExampleGradients(setting.module, setting.x, noise=setting.x_noise)
    found = []
    for i in range(0, n, batch):
        some = slice(i, min(n, i + batch))
        features = gradients.features_by_draw(setting.x[some], setting.x_noise[:, some], draws=blocks)
        found.append(unbiased_self_influence(gram(features))[0])
    return torch.cat(found)


def gradients_of_one(setting, x, noise):
    loss = setting.module(x, draws=setting.draws, noise=noise)[0]
    return torch.autograd.grad(loss, list(setting.module.parameters()))


def by_network(setting, task, n, batch):
    """Forward and backward through the network alone: what any way must do that differentiates each draw once."""
    module = setting.module.requires_grad_(False)
    for i in range(0, n, batch):
        some = slice(i, min(n, i + batch))
        x = setting.x[some].clone().requires_grad_()
        torch.autograd.grad(module(x, draws=setting.draws, noise=setting.x_noise[:, some]).sum(), x)
    module.requires_grad_(True)


def by_loop(setting, task, n, batch):
    """`batch` gradients are multiplied with those of the queries at once; one is the plainest loop."""
    x, noise = setting.x, setting.x_noise
    if task == TASKS[0]:
        rows = (gradients_of_one(setting, x[i : i + 1], noise[:, i : i + 1]) for i in range(n))
        return torch.stack([sum(g.square().sum() for g in row) for row in rows])
    queries = flat_rows(setting, setting.z, setting.z_noise, range(setting.queries))
    parts = (flat_rows(setting, x, noise, range(i, min(n, i + batch))) for i in range(0, n, batch))
    return torch.cat([part @ queries.T for part in parts])


def flat_rows(setting, x, noise, rows):
    out = torch.empty(len(rows), sum(p.numel() for p in setting.parameters.values()))
    for row, i in zip(out, rows, strict=True):
        torch.cat([g.flatten() for g in gradients_of_one(setting, x[i : i + 1], noise[:, i : i + 1])], out=row)
    return out


def by_vmap(setting, task, n, batch):
    def loss(parameters, x, noise):
        return functional_call(setting.module, parameters, (x[None], setting.draws, noise[:, None]))[0]

    def rows(x, noise):
        found = vmap(grad(loss), (None, 0, 1))(setting.parameters, x, noise)
        return [g.reshape(len(x), -1) for g in found.values()]

    x, noise, found = setting.x, setting.x_noise, []
    if task != TASKS[0]:
        parts = [rows(*part) for part in zip(setting.z.split(batch), setting.z_noise.split(batch, 1), strict=True)]
        queries = [torch.cat(part) for part in zip(*parts, strict=True)]
    for i in range(0, n, batch):
        some = slice(i, min(n, i + batch))
        each = rows(x[some], noise[:, some])
        if task == TASKS[0]:
            found.append(sum(torch.linalg.vector_norm(g, dim=1).square() for g in each))
        else:
            found.append(sum(g @ q.T for g, q in zip(each, queries, strict=True)))
    return torch.cat(found)


def batch_first(setting, n):
    """The module and the tensors that other libraries take: noise with the examples first."""
    from peers import BatchFirst

    both = [(setting.x[:n], setting.x_noise[:, :n]), (setting.z, setting.z_noise)]
    return BatchFirst(setting.module), *((rows, noise.transpose(0, 1).contiguous()) for rows, noise in both)


def by_captum(setting, task, n, batch, hooks=False):
    from peers import captum_influence, captum_self_influence, captum_tracin

    module, x, z = batch_first(setting, n)
    tracin = captum_tracin(module, x, hooks=hooks, batch_size=batch)
    if task != TASKS[0]:
        return captum_influence(tracin, z)
    if getattr(setting.module, "log_variance", None) is None:
        return captum_self_influence(tracin)
    raise NotImplementedError("captum has no self-influence with a scalar parameter")


def by_captum_hooks(setting, task, n, batch):
    return by_captum(setting, task, n, batch, hooks=True)


def by_kronfluence(setting, task, n, batch):
    from peers import Kronfluence

    module, x, z = batch_first(setting, n)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        found = Kronfluence(module, folder)
        if task == TASKS[0]:
            return found.self_influence(x, batch_size=batch)
        return found.influence(x, z, batch_size=batch)


WAYS = {
    "genmem": (by_genmem, (16, 32, 64, 128, 256)),
    "genmem, unbiased": (by_genmem_unbiased, (16, 32, 64)),
    "network alone": (by_network, (16, 32, 64, 128)),
    "loop": (by_loop, (1,)),
    "loop, 32 at once": (by_loop, (32,)),
    "vmap(grad)": (by_vmap, (1, 2, 4, 8, 16, 32)),
    "captum, loop": (by_captum, (1, 2, 4)),
    "captum, hooks": (by_captum_hooks, (4, 8, 16, 32)),
    "kronfluence": (by_kronfluence, (4, 8, 16, 32)),
}
LIBRARY = {"captum, loop": "captum", "captum, hooks": "captum", "kronfluence": "kronfluence"}
TRIED, FEW, FEWER = 32, 128, 32  # examples to find the best batch on; examples of slow ways
SLOW = 2.0  # times as slow as genmem


def apply_to(setting, task):
    """The ways that give this."""
    skipped = {name for name, library in LIBRARY.items() if importlib.util.find_spec(library) is None}
    if setting.network == "convolutional":  # they would drop the decoder, its norms and the scalar log variance
        skipped |= {"captum, hooks", "kronfluence"}
        skipped |= {"captum, loop"} if task == TASKS[0] else set()
    skipped |= {"loop, 32 at once"} if task == TASKS[0] else {"genmem, unbiased", "network alone"}
    return [name for name in WAYS if name not in skipped]


def agreement(setting, task, names):
    """The largest difference of each way from genmem, as a share of |g_x| |g_z|."""
    n = 8
    truth = by_genmem(setting, task, n, n).double()
    own = by_genmem(setting, TASKS[0], n, n)[:, None].double()
    scale = own[:, 0]
    if task != TASKS[0]:
        gradients = PerExampleGradients(setting.module, setting.z, noise=setting.z_noise)
        scale = (own * squared_norms(gradients.features(setting.z, setting.z_noise))).sqrt()
    others = [name for name in names if name not in ("genmem, unbiased", "network alone")]
    found = {name: WAYS[name][0](setting, task, n, 4).double() for name in others}
    return {name: float(((value - truth) / scale).abs().max()) for name, value in found.items()}


def best_batches(setting, task, names, n):
    """The fastest batch size of each way, and the seconds of an example then."""
    best = {}
    for name in names:
        call, sizes = WAYS[name]
        few = max([min(n, TRIED), *(size for size in sizes if size <= n)])
        sizes = [size for size in sizes if size <= few] or [few]
        if len(sizes) > 1:
            call(setting, task, sizes[0], sizes[0])  # libraries start slowly
        times = {size: seconds(call, setting, task, max(few, size), size) / max(few, size) for size in sizes}
        best[name] = min(times, key=times.get), min(times.values())
    return best


def measure(setting, task, n, rounds):
    names = apply_to(setting, task)
    print(f"\n{setting.network} VAE, {sum(p.numel() for p in setting.parameters.values()):,} parameters, {task}")
    differences = agreement(setting, task, names)
    require(max(differences.values()) < 1e-3, f"ways differ by a share of {differences}")
    batches = best_batches(setting, task, names, n)
    slow = [name for name in names if n > FEW and batches[name][1] > SLOW * batches["genmem"][1]]
    times = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            times[name].append(whole(setting, task, n, name, batches[name][0], name in slow))
    for name, values in times.items():
        ratio = spread(slower(values, times["genmem"]))
        notes = [f"batch {batches[name][0]}", *([f"from {FEW} examples"] if name in slow else [])]
        notes += [f"differs by {differences[name]:.0e}"] if name in differences else []
        print(f"  {name:<18} {statistics.median(values):8.2f} s   {ratio:<26} {', '.join(notes)}", flush=True)
    return {name: size for name, (size, _) in batches.items()}


def whole(setting, task, n, name, batch, slow):
    """Seconds for n examples; of a slow way, from those of fewer."""
    call = WAYS[name][0]
    if not slow:
        return seconds(call, setting, task, n, batch)
    less, more = (seconds(call, setting, task, size, batch) for size in (FEWER, FEW))
    return more + (n - FEW) * max(0.0, more - less) / (FEW - FEWER)


# --- memory


def memory(network, images, n, sizes, task, name, batch):
    """MiB at the peak above what is there before, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    images = images[: n + sizes["queries"]]
    process = context.Process(target=peak, args=(queue, network, images, n, sizes, task, name, batch))
    process.start()
    process.join()
    return None if process.exitcode else queue.get()


def peak(queue, network, images, n, sizes, task, name, batch):
    setting = Setting(network, images, n, **sizes)
    WAYS[name][0](setting, task, 1, 1)  # all is imported
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident()
    WAYS[name][0](setting, task, n, batch)
    queue.put((highest() - before) / 1024)


def resident():
    return status("VmRSS")


def highest():
    return max(status("VmHWM"), 0) or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def status(field):
    path = Path("/proc/self/status")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith(field)), 0)


def memories(setting, images, sizes, task, batches):
    n = min(FEW, len(setting.x))
    print(f"  peak memory on {n} examples, MiB: ", end="")
    found = {name: memory(setting.network, images, n, sizes, task, name, size) for name, size in batches.items()}
    require(found["genmem"] is not None, "the process that measures memory failed")
    print(", ".join(f"{name} {'-' if peak is None else f'{peak:,.0f}'}" for name, peak in found.items()), flush=True)


def images_of(mnist, n):
    if mnist:
        with np.load(mnist) as data:
            return data["x_train"][:n]
    return np.random.default_rng(0).integers(0, 256, (n, 28, 28), dtype=np.uint8)


def main(argv=None):
    parser = options(__doc__)
    parser.add_argument("--mnist", help="an .npz with x_train; made-up images without it")
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    arguments = parse(parser, argv, examples=8, rounds=1)
    mnist, n = like_mnist() if arguments.smoke else arguments.mnist, arguments.examples
    sizes = TINY if arguments.smoke else USUAL
    images = images_of(mnist, n + sizes["queries"])
    absent = {library for library in LIBRARY.values() if importlib.util.find_spec(library) is None}
    print(machine(*sorted(set(LIBRARY.values()) - absent)))
    for library in sorted(absent):
        print(f"{library} is not installed and not measured")
    print(f"{n:,} examples, {sizes['queries']} queries, {sizes['draws']} draws, {arguments.rounds} rounds")
    for network in arguments.networks:
        setting = Setting(network, images, n, **sizes)
        for task in TASKS:
            batches = measure(setting, task, n, arguments.rounds)
            if not arguments.smoke:
                memories(setting, images, sizes, task, batches)
            elif (network, task) == (NETWORKS[0], TASKS[0]):  # a process for each way and network would take minutes
                memories(setting, images, sizes, task, {"genmem": batches["genmem"]})


if __name__ == "__main__":
    main()
