"""Every key of a configuration with its default."""

from typing import Any

import ml_collections
from ml_collections import ConfigDict

DATA = dict(
    source="",  # "digits", a key of data.sources.SOURCES or of data.TARGETS; empty: the path decides
    path="",  # of the files of real images
    download_hint="",  # where to get the data; shown if the path does not exist
    dataset="",  # name in tensorflow-datasets
    size=0,  # side in pixels: pictures are cropped and resized to it, arrays must have it; 0: as the arrays are
    crop="center",  # of pictures: the square in the middle, resized, or "random": at random places and scales
    min_scale=0.0,  # of random crops: pictures are shrunk to no less than this part; 0: to the smallest that fits
    channels=3,  # of pictures: 3 for colour, 1 for gray, which colour arrays become, too
    range=(),  # black and white of arrays and of pictures of more than 8 bits, as (0, 4095); empty: see docs/data.md
    flip=False,  # mirror training images left to right with probability 1/2
    turn=False,  # turn training images, which must be square, by 0 to 3 quarter turns; scenes have an up and a down
    test_share=0.2,  # held out of real images without an official split
    test_images=2000,  # largest number of held-out images to measure on; 0: all
    strict=False,  # decode every picture first and refuse unusable ones, instead of leaving them out
    max_pixels=50_000_000,  # of a picture file
    memory_gb=2.0,  # pictures (for random crops: whole ones) that all fit into it are decoded once and kept
    workers=0,  # processes that decode pictures; 0: threads
    samples=50_000,  # training images drawn from a known distribution
    test_samples=4_000,  # test images drawn from it
    spectrum="power_law",  # of the Gaussian target: isotropic or power_law
    components=10,  # of the mixture fitted to the digits
)

LOSS = dict(
    off_diagonal="lagrangian",  # a key of losses.OFF_DIAGONAL
    diagonal_share=0.75,  # of each batch
    phases=(),  # pairs (part of the steps, diagonal share), as ((.5, 1.), (.5, .5)); empty: diagonal_share throughout
    weighting="none",  # one of losses.WEIGHTING
    weight_bound=4.0,  # bound on the magnitude of the learned log-variance
    weight_learning_rate=0.1,  # of the learned log-variance, relative to the learning rate
    # Recipes of training, each on its own; docs/training.md names their sources.
    times="uniform",  # distribution of the times of training, a key of times.QUANTILES
    times_mean=0.4,  # of the logit of logit_normal times; above 0 favours late times (MeanFlow's -.4 counts from data)
    times_std=1.0,  # of the logit of logit_normal times
    power=0.0,  # p of the adaptive weight 1 / (loss + 1e-3)^p; 0: none
    difference=0.0,  # step of a finite difference instead of the derivative along the path, such as .01; 0: exact
    teacher_decay=0.0,  # per step, of an average of the parameters that makes the targets; 0: they make them
    interval_steps=0,  # steps over which the intervals t - s grow from none to their length; 0: at once
    huber=0.0,  # c of the pseudo-Huber loss sqrt(loss + c^2) - c; 0: mean squares
)

OPTIMIZER = dict(
    learning_rate=1e-3,
    warmup_steps=100,
    decay=True,  # cosine, to zero at the last step if no update was skipped
    b1=0.9,
    b2=0.99,
    weight_decay=0.0,
    clip_norm=1.0,
)

EMA = dict(
    half_life=200_000.0,  # of the average of the parameters, in images
    more_half_lives=(),  # of further averages; the one with the least error on train.validation_images is used
)

TRAIN = dict(
    steps=1000,
    start_from="",  # trained weights for a new run: a prior that ships, a workdir, a folder or a released file
    batch_size=256,  # over all devices
    log_every=50,
    checkpoint_every=1000,
    max_to_keep=2,  # latest checkpoints
    keep_period=0,  # checkpoints whose step is a multiple of it are kept for good; 0: none
    max_consecutive_skips=10,  # non-finite updates in a row before the run rolls back to a checkpoint
    validation_images=0,  # training images set aside, by the seed, to choose among the averages of ema
    watch_every=500,  # steps between two measurements on held-out images, which nothing is chosen by; 0: none
    watch_images=64,  # held-out images they are made on, the first
    grad_accumulation_steps=1,  # parts a batch is divided into to save memory; results are the same
)

PARALLEL = dict(
    mode="jit",  # one of data_parallel.MODES
    fsdp=False,  # shard the parameters over the devices, for models that do not fit on one
    devices=0,  # number that the run must find; 0: any
    cpu_devices=0,  # number that the CPU is divided into; 0: one per core, if the batch can be divided among them
)

EVALUATE = dict(
    noise_levels=(0.3, 0.5, 0.7),  # alpha = 1 - s
    points=15,  # settings along each curve, both ends included
    batch_size=360,
    noise_draws=4,  # per image
    bootstrap=200,  # resamplings for the intervals of distances between sets of real images
    figure_images=3,
    baseline_images=360,  # restored by the baselines too, which take many evaluations; 0: no baselines
    baseline_steps=32,  # of their reverse diffusion
    inception="",  # for KID, FID, precision and recall: a path, "auto" to look for the weights, or empty
    lpips="",  # likewise for LPIPS
    dists="",  # likewise for DISTS
    vgg16="",  # likewise for the Fréchet distance, KID, precision and recall on VGG16's features
    small_fid=False,  # Fréchet distances even of fewer images than features (2,048 of Inception, 512 of VGG16)
)

INVERSE = dict(
    protocol="",  # a key of tasks.PROTOCOLS; its tasks come before those named here
    tasks={},  # by name: operator, its parameters, sigma (or peak, laplace) and, optionally, steps
    solvers=("pnp", "pnp_flow", "ot_ode", "flow_priors", "d_flow", "dps", "flower"),  # all
    images=200,  # the first of the held-out images
    tuning_images=64,  # training images on which the solvers are tuned; 0: none are, all take their published options
    seeds=3,  # for masks, kernels, noise and solvers
    batch_size=200,
    steps=(10, 20, 100),  # of plug-and-play; the largest is the budget of the other solvers
    knob="relative",  # how a lookahead is read: relative, additive (as published) or fixed
    lookaheads=(0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0),
    schedule="published",  # of the gain of pnp and pnp_flow, or safe: divided by 2 norm(H)^2, as --mode=restore does
    pnp_flow_draws=5,  # renoisings in each step of PnP-Flow, each of which takes an evaluation
    chord=True,  # whether plug-and-play also runs along the chord, at two evaluations a step
)

BENCHMARK = dict(
    folders="",  # of test pictures, separated by commas; each is a set, called as its folder
    sigmas=(15.0, 25.0, 50.0),  # standard deviations of the noise, of 255
    lookaheads=(0.0, 0.25, 0.5, 0.75, 1.0),  # and, at the same fractions, the chord
    perceptual_every=4,  # PSNR at t = s and t = 1 is measured on all pictures, everything else on every n-th; 1: on all
    max_pictures=0,  # the first of each folder; 0: all
    rivals="nl_means,wavelets,bm3d",  # other denoisers, keys of rivals.RIVALS, separated by commas; empty: none
    seed=0,  # of the noise; every picture has its own
    tile=0,  # pixels a side of the tiles of a fully convolutional prior; 0: as the prior says
    memory_gb=0.0,  # for tiles at once, on each GPU or on the CPU; 0: half of what is free
)


def default_config() -> ConfigDict:
    """All keys of a run with their defaults; the files in configs/ override them."""
    return ConfigDict(
        dict(
            name="",
            seed=0,
            precision="default",  # of products and convolutions, one of precision.PRECISIONS; see docs/devices.md
            data=DATA,
            network=dict(name="mlp"),
            loss=LOSS,
            optimizer=OPTIMIZER,
            ema=EMA,
            train=TRAIN,
            parallel=PARALLEL,
            evaluate=EVALUATE,
            inverse=INVERSE,
            benchmark=BENCHMARK,
        )
    )


def as_plain_dict(config: ConfigDict) -> dict:
    """The configuration as nested dictionaries, lists, strings and numbers, ready for JSON."""
    return {
        key: as_plain_dict(value) if isinstance(value, ml_collections.ConfigDict) else _lists(value)
        for key, value in config.items()
    }


def _lists(value: Any) -> Any:
    return [_lists(x) for x in value] if isinstance(value, list | tuple) else value
