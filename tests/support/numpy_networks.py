"""LPIPS, DISTS and the features of VGG16 written anew in NumPy and float64, from the published definitions.

Images are [n, H, W, 3] in [-1, 1]; weights have the names and the layout of torchvision's and lpips's files.
"""

import numpy as np

CUTS = {"alex": [[0], [3], [6], [8], [10]], "vgg": [[0, 2], [5, 7], [10, 12, 14], [17, 19, 21], [24, 26, 28]]}
POOLED = {"alex": [1, 2], "vgg": [1, 2, 3, 4]}  # the stages that a pool comes before
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def windows(x, side, stride):
    """[n, c, h, w, side, side] of [n, c, H, W]."""
    return np.lib.stride_tricks.sliding_window_view(x, (side, side), (2, 3))[:, :, ::stride, ::stride]


def bordered(x, pixels):
    return np.pad(x, ((0, 0), (0, 0), (pixels, pixels), (pixels, pixels)))


def convolve(x, kernel, bias, stride, padding):
    patches = windows(bordered(x, padding), kernel.shape[-1], stride)
    return np.einsum("nchwij,ocij->nohw", patches, kernel, optimize=True) + bias[:, None, None]


def max_pool(x, side):
    return windows(x, side, 2).max((-1, -2))


def l2_pool(x, _):
    window = np.hanning(5)[1:-1]
    weights = window[:, None] * window
    return np.sqrt(np.einsum("nchwij,ij->nchw", windows(bordered(x**2, 1), 3, 2), weights / weights.sum()) + 1e-12)


def stages(arrays, backbone, images, pool=max_pool):
    """The maps [n, c, h, w] after the last ReLU of each stage."""
    x = (((np.asarray(images, np.float64) + 1) / 2 - MEAN) / STD).transpose(0, 3, 1, 2)
    maps = []
    for number, places in enumerate(CUTS[backbone]):
        if number in POOLED[backbone]:
            x = pool(x, 3 if backbone == "alex" else 2)
        for place in places:
            kernel = arrays[f"features.{place}.weight"].astype(np.float64)
            stride, padding = (4, 2) if kernel.shape[-1] == 11 else (1, kernel.shape[-1] // 2)
            x = np.maximum(convolve(x, kernel, arrays[f"features.{place}.bias"], stride, padding), 0)
        maps.append(x)
    return maps


def lpips(arrays, backbone, images, others):
    total = 0
    for number, maps in enumerate(zip(*(stages(arrays, backbone, x) for x in (images, others)), strict=True)):
        a, b = (x / (np.sqrt((x**2).sum(1, keepdims=True)) + 1e-10) for x in maps)
        weights = arrays[f"lin{number}.model.1.weight"].reshape(-1, 1, 1)
        total = total + (weights * (a - b) ** 2).sum(1).mean((1, 2))
    return total


def dists(arrays, images, others):
    pixels = [(np.asarray(x, np.float64).transpose(0, 3, 1, 2) + 1) / 2 for x in (images, others)]
    first, second = ([p, *stages(arrays, "vgg", x, l2_pool)] for p, x in zip(pixels, (images, others), strict=True))
    alpha, beta = (arrays[name].astype(np.float64).ravel() for name in ("alpha", "beta"))
    similarity, start = 0, 0
    for x, y in zip(first, second, strict=True):
        part = slice(start, start := start + x.shape[1])
        mx, my = x.mean((2, 3)), y.mean((2, 3))
        covariance = (x * y).mean((2, 3)) - mx * my
        texture = (2 * mx * my + 1e-6) / (mx**2 + my**2 + 1e-6)
        structure = (2 * covariance + 1e-6) / (x.var((2, 3)) + y.var((2, 3)) + 1e-6)
        similarity = similarity + (alpha[part] * texture + beta[part] * structure).sum(1)
    return 1 - similarity / (alpha.sum() + beta.sum())


def vgg16_features(arrays, images):
    return stages(arrays, "vgg", images)[-1].mean((2, 3))
