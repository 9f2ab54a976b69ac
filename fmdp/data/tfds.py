"""Data sets of tensorflow-datasets, read without TensorFlow where they have been prepared."""

import functools
import importlib
import io
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fmdp.data.decoding import ImageFiles, UnusableError
from fmdp.errors import InputError, reason

TEST = ("test", "validation")


def list_tfds(name: str, folder: pathlib.Path) -> tuple[ImageFiles, ImageFiles | None]:
    """The pictures to train on, and those to test on where it has some, of the data set `name` prepared in `folder`.

    Raises:
      InputError: no data set has this name, it is not prepared there as array_record, or it holds no images.
    """
    if not re.fullmatch(r"[\w-]*(/[\w.-]+)?(:[\d.*]+)?", name):  # a namespace would have its code fetched and run
        raise InputError(f"config.data.dataset = {name!r}: name a data set of tensorflow-datasets itself")
    import tensorflow_datasets as tfds  # takes a second, and only here

    if name == "afhq":
        importlib.import_module("fmdp.data.afhq")
    try:
        builder = tfds.builder(name, data_dir=folder, file_format="array_record")
    except ValueError as error:
        said = str(error).splitlines()[0]
        raise InputError(f"config.data.dataset = {name!r}: tensorflow-datasets says: {said}") from error
    if not builder.is_prepared():
        raise InputError(
            f"config.data.path = '{folder}' holds no prepared {name}: with the extra fmdp[prepare] installed, run"
            f" tensorflow_datasets.builder('{name}', data_dir='{folder}', file_format='array_record')"
            ".download_and_prepare()"
        )
    features, splits = dict(builder.info.features), builder.info.splits
    if not isinstance(features.get("image"), tfds.features.Image):
        raise InputError(f"config.data.dataset = {name!r}: it has no feature 'image'")
    if "train" not in splits:
        raise InputError(f"config.data.dataset = {name!r}: it has no split 'train', only {', '.join(splits)}")
    decoders = {"image": tfds.decode.SkipDecoding()}
    wanted = ["train", *[part for part in TEST if part in splits][:1]]
    parts = {part: builder.as_data_source(part, decoders=decoders) for part in wanted}
    classes = isinstance(features.get("label"), tfds.features.ClassLabel)
    train, *test = (_files(parts, part, classes) for part in parts)
    return train, (test[0] if test else None)


def _files(parts: Mapping[str, Sequence[Any]], part: str, classes: bool) -> ImageFiles:
    records = parts[part]
    labels = [record["label"] for record in records] if classes else np.zeros(len(records))
    names = [f"{part}/{i}" for i in range(len(records))]
    return ImageFiles(names, np.asarray(labels, int), functools.partial(_open, parts))


def _open(parts: Mapping[str, Sequence[Any]], name: str) -> io.BufferedIOBase:
    part, _, index = name.rpartition("/")
    try:
        return io.BytesIO(parts[part][int(index)]["image"])
    except Exception as error:  # array_record and tfds raise many kinds for a damaged file
        raise UnusableError(f"damaged: {reason(error)}") from error
