"""Prepared data sets of tensorflow-datasets, read without TensorFlow."""

import functools
import importlib
import io
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fmdp.data.decoding import ImageFiles, damage_as_unusable
from fmdp.errors import InputError, translating

TEST = ("test", "validation")


def list_tfds(name: str, folder: pathlib.Path) -> tuple[ImageFiles, ImageFiles | None]:
    """The training pictures and, if it has any, the test pictures of the data set `name` prepared in `folder`.

    Raises:
      InputError: no data set has this name, it is not prepared there as array_record, or it holds no images.
    """
    if not re.fullmatch(r"[\w-]*(/[\w.-]+)?(:[\d.*]+)?", name):  # the code of a namespace would be downloaded and run
        raise InputError(f"config.data.dataset = {name!r}: name a data set of tensorflow-datasets itself")
    import tensorflow_datasets as tfds  # slow to import, and needed only here

    if name == "afhq":
        importlib.import_module("fmdp.data.afhq")
    with translating(lambda why: f"config.data.dataset = {name!r}: tensorflow-datasets says: {why}", ValueError):
        builder = tfds.builder(name, data_dir=folder, file_format="array_record")
    if not builder.is_prepared():
        prepare = f"tensorflow_datasets.builder('{name}', data_dir='{folder}', file_format='array_record')"
        remedy = f"with the extra fmdp[prepare] installed, run {prepare}.download_and_prepare()"
        raise InputError(f"config.data.path = '{folder}' holds no prepared {name}: {remedy}")
    features, splits = dict(builder.info.features), builder.info.splits
    if not isinstance(features.get("image"), tfds.features.Image) or "train" not in splits:
        found = f"its features are {', '.join(features)} and its splits {', '.join(splits)}"
        raise InputError(
            f"config.data.dataset = {name!r}: it needs pictures called 'image' and a split 'train'; {found}"
        )
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
    with damage_as_unusable():
        return io.BytesIO(parts[part][int(index)]["image"])
