"""What was measured of each picture, kept in files of its own, so that a benchmark goes on where it was stopped."""

import json
import pathlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fmdp.benchmark.measure import Row
from fmdp.benchmark.pictures import PictureFile
from fmdp.errors import InputError
from fmdp.io.archives import load_npz
from fmdp.io.dataclass_json import from_json, to_json
from fmdp.io.files import atomic_write, read_json, write_json


@dataclass(frozen=True, kw_only=True)
class Record:
    """What was measured of a picture.

    Attributes:
      sha256: of its file.
      in_full: whether everything was measured.
      size: [height, width].
      seconds: that this took, on the `backend`.
      notes: what there is to know about it.
    """

    sha256: str
    in_full: bool
    size: list[int]
    seconds: float
    backend: str
    rows: list[Row]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Records:
    """The records in a folder, all made with the same settings. Crops of pictures for figures are beside them."""

    folder: pathlib.Path

    @classmethod
    def open(cls, folder: pathlib.Path, settings: dict[str, Any]) -> "Records":
        """The records of these settings, which are what the numbers of a picture depend on, as JSON.

        Raises:
          InputError: the folder holds records of other settings; names one that differs.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path, settings = folder / "settings.json", json.loads(json.dumps(settings))
        if path.exists():
            before = read_json(path)
            for key in sorted({*before, *settings}):
                if before.get(key) != settings.get(key):
                    was, is_now = (str(x.get(key))[:100] for x in (before, settings))
                    differs = f"holds pictures measured with {key} {was}, not {is_now}"
                    raise InputError(f"{folder} {differs}: name another --workdir, or remove this folder")
        else:
            write_json(path, settings)
        return cls(folder)

    def read(self, picture: PictureFile, sha256: str, in_full: bool) -> Record | None:
        """The record of a picture, in full or not as asked; None where there is none of this file, or a damaged one.

        One in full serves where less is asked for.
        """
        path = self._path(picture, ".json")
        try:
            record = from_json(Record, read_json(path), str(path))
        except InputError:
            return None
        return record if record.sha256 == sha256 and (record.in_full or not in_full) else None

    def write(self, picture: PictureFile, record: Record, crops: dict[str, np.ndarray]) -> None:
        """Keep the record of a picture, after its crops, uint8 by name; without any, no file of crops is written."""
        path = self._path(picture, ".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        if crops:
            with atomic_write(self._path(picture, ".npz")) as temporary:
                np.savez_compressed(temporary, **crops)  # type: ignore[arg-type]
        write_json(path, to_json(record))

    def crops(self, picture: PictureFile) -> dict[str, np.ndarray]:
        """The crops of a picture; empty where there are none."""
        path = self._path(picture, ".npz")
        try:
            return load_npz(path) if path.exists() else {}
        except InputError:
            return {}

    def _path(self, picture: PictureFile, ending: str) -> pathlib.Path:
        path = self.folder / picture.dataset / picture.name
        return path.with_name(path.name + ending)
