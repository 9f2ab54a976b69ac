"""The tasks of two published comparisons, scaled to the size of the images."""

from typing import Any

Task = dict[str, Any]
"""{"operator": name, "sigma" | "peak" | "laplace": of the noise, "steps": of plug-and-play, and the operator's own}."""


def fmd(image_shape: tuple[int, int, int]) -> dict[str, Task]:
    """The protocol of flow map denoisers (arXiv 2606.19802); sizes scale with the image, from those at 128 pixels."""
    scale = min(image_shape[:2]) / 128
    kernel, box = _odd(31 * scale), max(round(60 * scale), 1)
    tasks: dict[str, Task] = {
        "gaussian_deblurring": dict(operator="gaussian_blur", sigma=0.05, kernel_size=kernel, std=kernel / 31 * 3.0),
        "motion_deblurring": dict(operator="motion_blur", sigma=0.05, kernel_size=_odd(61 * scale), intensity=0.5),
        "super_resolution_4": dict(operator="super_resolution", sigma=0.05, factor=4),
        "box_inpainting": dict(operator="box_inpainting", sigma=0.01, size=box),
        "random_inpainting": dict(operator="random_inpainting", sigma=0.01, ratio=0.9, steps=300),
        "phase_retrieval": dict(operator="phase_retrieval", sigma=0.05, oversampling=2.0),
        "poisson_deblurring": dict(operator="gaussian_blur", peak=20.0, kernel_size=kernel, std=kernel / 31 * 3.0),
    }
    if image_shape[-1] == 3:
        tasks["colorization"] = dict(operator="colorization", sigma=0.05)
    tasks["jpeg"] = dict(operator="jpeg", sigma=0.05, quality=10)
    return tasks


def pnpflow(image_shape: tuple[int, int, int]) -> dict[str, Task]:
    """The protocol of PnP-Flow (arXiv 2410.02423); sizes scale with the image, from those at 128 pixels."""
    scale = min(image_shape[:2]) / 128
    kernel = _odd(61 * scale)
    return {
        "denoising": dict(operator="denoising", sigma=0.2),
        "gaussian_deblurring": dict(
            operator="gaussian_blur", sigma=0.05, kernel_size=kernel, std=max(scale, 0.5), boundary="circular"
        ),
        "super_resolution_2": dict(operator="decimation", sigma=0.05, factor=2),
        "box_inpainting": dict(operator="box_inpainting", sigma=0.05, size=max(round(40 * scale), 1)),
        "random_inpainting": dict(operator="random_inpainting", sigma=0.01, ratio=0.7),
    }


PROTOCOLS = {"fmd": fmd, "pnpflow": pnpflow}


def tasks_of_protocol(name: str, image_shape: tuple[int, int, int]) -> dict[str, Task]:
    """The tasks of one of `PROTOCOLS` for images [H, W, C]; none for the empty name."""
    return PROTOCOLS[name](image_shape) if name else {}


def _odd(size: float) -> int:
    return max(2 * round((size - 1) / 2) + 1, 3)
