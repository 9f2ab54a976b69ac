"""AFHQ's official folder as a data set of tensorflow-datasets: python -m fmdp.data.afhq FOLDER DATA_DIR.

FOLDER holds train/ and val/ (test/ in version 2), each with cat/, dog/ and wild/. The pictures are stored in DATA_DIR
without changes; --config.data.source=tfds --config.data.dataset=afhq --config.data.path=DATA_DIR then trains on them.
Object stores handle this one file better than 16,000; on a disk the folder itself works as well.
"""

import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from fmdp.data import folder
from fmdp.errors import InputError

CLASSES = ("cat", "dog", "wild")


class Afhq(tfds.core.GeneratorBasedBuilder):
    """Animal faces of 512x512 pixels in three classes (Choi et al., StarGAN v2, CVPR 2020)."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # tfds needs no files from here, and its search for them imports an undeclared dependency
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Get the folder of AFHQ with the download script of github.com/clovaai/stargan-v2."

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=CLASSES)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        root = pathlib.Path(dl_manager.manual_dir)
        return {"train": self._generate_examples(root / "train"), "test": self._generate_examples(test_folder(root))}

    def _generate_examples(self, root: pathlib.Path) -> Iterator[tuple[str, dict[str, str]]]:
        for name in folder.list_names(root):
            yield name, {"image": str(root / name), "label": name.split("/")[0]}


def test_folder(root: pathlib.Path) -> pathlib.Path:
    """The folder of the held-out pictures: val in version 1, test in version 2."""
    return root / "val" if (root / "val").is_dir() else root / "test"


def prepare(root: pathlib.Path, data_dir: pathlib.Path) -> None:
    """Write AFHQ's official folder as a data set under `data_dir`, without TensorFlow.

    Raises:
      InputError: the folder does not have the official layout.
    """
    needed = [part / name for part in (root / "train", test_folder(root)) for name in CLASSES]
    if missing := [folder for folder in needed if not folder.is_dir()]:
        raise InputError(f"{missing[0]} does not exist: {root} must have the layout of AFHQ's official folder")
    config = tfds.download.DownloadConfig(manual_dir=root)
    Afhq(data_dir=data_dir, file_format="array_record").download_and_prepare(download_config=config)


if __name__ == "__main__":
    try:
        prepare(*(pathlib.Path(argument) for argument in sys.argv[1:3]))
    except (InputError, TypeError) as error:
        sys.exit(f"fmdp: {error}")
