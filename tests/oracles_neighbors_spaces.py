"""Spaces, pixel by pixel and as their definitions say."""

import cmath
import math

import numpy as np


def pooled(image, size):
    height, width = image.shape[:2]
    return np.array(
        [
            [
                np.mean(
                    [
                        image[y, x].astype(float)
                        for y in range(top, min(top + size, height))
                        for x in range(left, min(left + size, width))
                    ],
                    axis=0,
                )
                for left in range(0, width, size)
            ]
            for top in range(0, height, size)
        ]
    )


def amplitudes(image):
    """Return |F(u, v)| for all h x w frequencies, by the sum that defines it, over sqrt(h w)."""
    height, width = image.shape
    found = np.empty((height, width))
    for u in range(height):
        for v in range(width):
            terms = (
                image[y, x] * cmath.exp(-2j * math.pi * (u * y / height + v * x / width))
                for y in range(height)
                for x in range(width)
            )
            found[u, v] = abs(sum(terms)) / math.sqrt(height * width)
    return found


def spectrum_distance(a, b):
    """Return the distance of two images by their amplitudes, each pair (u, v), (-u, v) in ascending order."""
    height, width = a.shape
    one, other = amplitudes(a), amplitudes(b)
    total = 0.0
    for u in range(height):
        for v in range(width):
            mirrored = (-u % height, v)
            pair, twin = sorted([one[u, v], one[mirrored]]), sorted([other[u, v], other[mirrored]])
            total += ((pair[0] - twin[0]) ** 2 + (pair[1] - twin[1]) ** 2) / 2
    return math.sqrt(total)


def shifted(images, down, right, fill=0):
    """Return images (m, h, w) with every pixel moved; what leaves is lost, what enters is `fill`."""
    moved = np.full_like(images, fill)
    height, width = images.shape[1:]
    for y in range(height):
        for x in range(width):
            if 0 <= y - down < height and 0 <= x - right < width:
                moved[:, y, x] = images[:, y - down, x - right]
    return moved
