"""Which space sees which copies? Samples that are altered training images, and the share nearest to the training set.

Fresh samples give about one half in every space, for as many images are held out as are trained on; samples that are
recognised as copies give 1. The second table mixes one altered image with 19 fresh ones and gives the p-value of the
share among the nearest 5% (`tail_share_test`), the median over draws. A few minutes; MNIST more (docs/spaces.md).
"""

import numpy as np
from common import like_mnist, machine, options, parse
from scipy import ndimage

import genmem
from genmem.neighbors.sets import Searches
from genmem.neighbors.shares import tail_share_test
from genmem.neighbors.spaces import in_space

SPACES = ("raw", "pooled", "pca", "latent", "spectrum")


def digits(rng):
    images = genmem.load("digits").X.reshape(-1, 8, 8)[rng.permutation(1797)]
    return images[:650], images[650:1300], images[1300:]


def mnist(rng, path):
    with np.load(path) as data:
        images = data["x_train"]
    images = images[rng.permutation(len(images))[:11000]].astype(np.float32) / 255
    most = min(5000, len(images) * 5 // 11)
    return images[:most], images[most : 2 * most], images[2 * most :]


def photos(rng, side=24):
    """Return patches of the two photographs that come with scikit-learn, with a margin of 2 around each."""
    from sklearn.datasets import load_sample_images

    whole, patches = side + 4, []
    for photo in load_sample_images().images:
        gray = photo.mean(axis=2).astype(np.float32) / 255
        for y in range(0, gray.shape[0] - whole, whole):
            patches += [gray[y : y + whole, x : x + whole] for x in range(0, gray.shape[1] - whole, whole)]
    patches = np.array(patches)[rng.permutation(len(patches))]
    third = len(patches) // 3
    return patches[:third], patches[third : 2 * third], patches[2 * third :]


def moved(images, down, right, fill):
    """Return images moved by whole pixels; what enters is 0 ("zero") or the pixel at the edge ("nearest")."""
    return ndimage.shift(images, (0, down, right), order=0, mode="constant" if fill == "zero" else "nearest")


def changes(images, rng, fill):
    noise = 0.1 * images.std()
    return {
        "copied": images,
        "noise, a tenth of the sd": images + rng.normal(scale=noise, size=images.shape),
        "shifted by 1": moved(images, 0, 1, fill),
        "shifted by 1, 0 enters": moved(images, 0, 1, "zero"),
        "shifted by (1, 1)": moved(images, 1, 1, fill),
        "shifted by 2": moved(images, 0, 2, fill),
        "shifted by half": ndimage.shift(images, (0, 0, 0.5), order=1, mode="nearest"),
        "mirrored": images[:, :, ::-1],
        "mirrored, shifted, noise": moved(images[:, :, ::-1], 0, 1, fill) + rng.normal(scale=noise, size=images.shape),
        "rotated by 5 degrees": ndimage.rotate(images, 5, axes=(1, 2), reshape=False, order=1, mode="nearest"),
        "contrast of 80%": images * 0.8,
    }


def share_in_train(sets):
    searches = Searches(*sets)
    return float(np.mean(searches.distance("samples", "train") < searches.distance("samples", "test")))


def p_of_few(space, train, test, fresh, change, latent, draws):
    """Return the median p-value where one sample in 20 is an altered training image."""
    found = []
    for draw in range(draws):
        rng = np.random.default_rng([7, draw])
        few = len(fresh) // 19
        altered = change(train[rng.permutation(len(train))[:few]], rng)
        samples = np.concatenate([fresh, altered]).astype(np.float32)
        sets, _ = in_space(space, train, test, samples, latent=latent)
        found.append(tail_share_test(*sets).p_value)
    return float(np.median(found))


def table(title, rows):
    print(f"\n{title}\n\n| samples | " + " | ".join(SPACES) + " |")
    print("|---|" + "---|" * len(SPACES))
    for name, values in rows:
        print(f"| {name} | " + " | ".join(values) + " |", flush=True)


def study(title, train, test, fresh, model, *, fill="zero", draws=5, most=5000, seed=0):
    train, test, fresh = (images[:most] for images in (train, test, fresh))
    print(f"\n## {title}: {len(train):,} trained on, {len(test):,} held out, {len(fresh):,} fresh")
    rng = np.random.default_rng(seed)
    latent = model.fit(train).latent_mean
    copies = train[rng.permutation(len(train))[: len(fresh)]]
    altered = {"fresh": fresh, **changes(copies, rng, fill)}
    for space in SPACES:
        print(f"{space}: {in_space(space, train, test, fresh, latent=latent)[1]}")
    rows = []
    for name, samples in altered.items():
        samples = samples.astype(np.float32)
        sets = (in_space(space, train, test, samples, latent=latent)[0] for space in SPACES)
        rows.append((name, [f"{share_in_train(points):.2f}" for points in sets]))
    table("Share nearest to the training set", rows)
    rows = []
    for name in changes(copies[:2], rng, fill):
        by_name = lambda images, rng, name=name: changes(images, rng, fill)[name]  # noqa: E731
        values = [p_of_few(space, train, test, fresh, by_name, latent, draws) for space in SPACES]
        rows.append((name, [f"{value:.1g}" if value < 0.095 else f"{value:.2f}" for value in values]))
    table("p-value, 5% altered copies among fresh samples", rows)


def main(argv=None):
    parser = options(__doc__)
    parser.add_argument("--mnist", help="an .npz with x_train")
    parser.add_argument("--draws", type=int, default=5)
    parser.set_defaults(epochs=(200, 100, 30), most=5000)
    arguments = parse(parser, argv, draws=1, epochs=(1, 1, 1), most=100)
    arguments.mnist = like_mnist() if arguments.smoke else arguments.mnist
    epochs, how = arguments.epochs, {"draws": arguments.draws, "most": arguments.most}
    print(machine())
    small = genmem.VAE(hidden=(128, 64), latent_dim=8, epochs=epochs[0])
    study("digits, 8 x 8", *digits(np.random.default_rng(1)), small, **how)
    patches = photos(np.random.default_rng(1))
    inner = [images[:, 2:-2, 2:-2] for images in patches]
    gaussian = genmem.VAE(hidden=(256, 128), latent_dim=16, epochs=epochs[1], likelihood="gaussian")
    study("patches of photographs, 24 x 24", *inner, gaussian, fill="nearest", **how)
    if arguments.mnist:
        large = genmem.VAE(hidden=(256, 128), latent_dim=16, epochs=epochs[2])
        study("MNIST, 28 x 28", *mnist(np.random.default_rng(1), arguments.mnist), large, **how)


if __name__ == "__main__":
    main()
