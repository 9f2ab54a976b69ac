"""Every key of a configuration with its default."""

import ml_collections
from ml_collections import ConfigDict


def default_config() -> ConfigDict:
    """All keys of a run with their defaults; the files in configs/ name their own values on top of it."""
    return ConfigDict(
        dict(
            name="",
            seed=0,
            data=dict(
                source="",  # digits, one of data.sources.FILES, one of data.TARGETS, or empty to go by the path
                path="",  # of the files of real images
                download_hint="",  # where to get them, told where the path does not exist
                dataset="",  # of tensorflow-datasets
                size=0,  # pixels a side that pictures are cropped and resized to; images in arrays must have it, or 0
                channels=3,  # of pictures: 3 in colour, 1 in gray
                flip=False,  # left and right, every other time that an image is trained on
                test_share=0.2,  # of a source of real images without a split of its own
                test_images=2000,  # at most so many of the held-out images are measured on; 0: all
                strict=False,  # decode every picture first and refuse unusable ones, instead of leaving them out
                max_pixels=50_000_000,  # of a picture in its file
                memory_gb=2.0,  # pictures that fit in it are decoded once and kept
                workers=0,  # processes that decode pictures; 0: threads of this one
                samples=50_000,  # to train on, of a source that is a known distribution
                test_samples=4_000,
                spectrum="power_law",  # of the Gaussian: isotropic or power_law
                components=10,  # of the mixture fitted to the digits
            ),
            network=dict(name="mlp"),
            loss=dict(
                off_diagonal="lagrangian",  # losses.OFF_DIAGONAL
                diagonal_share=0.75,  # of the batch
                weighting="none",  # losses.WEIGHTING
                weight_bound=4.0,  # of the learned log-variance, either side of zero
                weight_learning_rate=0.1,  # of the learned log-variance, as a share of the learning rate
            ),
            optimizer=dict(
                learning_rate=1e-3,
                warmup_steps=100,
                decay=True,  # cosine, to zero at the last step
                b1=0.9,
                b2=0.99,
                weight_decay=0.0,
                clip_norm=1.0,
            ),
            ema=dict(half_life=200_000.0),  # in images
            train=dict(
                steps=1000,
                batch_size=256,
                log_every=50,
                checkpoint_every=1000,
                max_to_keep=2,  # latest checkpoints
                keep_period=0,  # checkpoints whose step is a multiple of it are kept for good; 0 keeps none
                max_consecutive_skips=10,  # non-finite updates in a row before the run rolls back to a checkpoint
                grad_accumulation_steps=1,  # parts a batch is divided into to save memory; results are the same
            ),
            parallel=dict(
                mode="jit",  # parallel.MODES
                fsdp=False,  # shard the parameters over the devices, too, where a model does not fit on one
                devices=0,  # that the run must find; 0: as many as there are
                cpu_devices=0,  # that the cores are divided into; 0: one each, as far as they fit a batch
            ),
            evaluate=dict(
                noise_levels=(0.3, 0.5, 0.7),  # alpha = 1 - s
                points=15,  # settings of each knob, both ends included
                batch_size=360,
                noise_draws=4,  # of the noise of every image
                bootstrap=200,  # resamplings behind the interval of the floors
                figure_images=3,
                baseline_images=360,  # restored by the other knobs too, which cost many evaluations; 0 leaves them out
                baseline_steps=32,  # of their reverse diffusion
                inception="",  # KID, FID, precision and recall; "auto": where the weights are found; or their path
                lpips="",  # the same
                small_fid=False,  # FID of fewer than 2,048 images, too
            ),
            inverse=dict(
                protocol="",  # one of protocols.PROTOCOLS: its tasks come before those named here
                tasks={},  # by name: operator, sigma (or peak, laplace), the operator's parameters, perhaps steps
                solvers=("pnp", "pnp_flow", "ot_ode", "flow_priors", "d_flow", "dps", "flower"),  # all
                images=200,  # restored, the first of the held-out ones
                tuning_images=64,  # of the training ones
                seeds=3,  # of masks, kernels, noise and solvers
                batch_size=200,
                steps=(10, 20, 100),  # of plug-and-play; the most is the other solvers' budget, too
                knob="relative",  # relative, additive (as published) or fixed: how a lookahead is read
                lookaheads=(0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0),
            ),
        )
    )


def as_plain_dict(config: ConfigDict) -> dict:
    """The configuration as nested dicts, lists, strings and numbers, ready for JSON."""
    return {
        key: as_plain_dict(value)
        if isinstance(value, ml_collections.ConfigDict)
        else list(value)
        if isinstance(value, tuple)
        else value
        for key, value in config.items()
    }
