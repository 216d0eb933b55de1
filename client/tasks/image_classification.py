"""Image classification: rows name images, or hold their pixels, and a class each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import interpolate

from client.data.images import ImageFile, Pixels, grey_columns, image_files, read_image
from client.data.text import as_written
from client.tasks.base import Task, needed
from client.tasks.classes import classes_of
from client.tasks.metrics import class_metrics
from client.training.encoder_top import build_top, saved_top
from client.training.examples import Inputs
from client.training.families import kind_of, must_be
from client.training.model_folder import load_encoder
from client.training.top import Top
from client.training.trunk import cached, inputs_file, inputs_key, run_frozen
from compliance.canonical import Json, canonical, sha256_hex
from compliance.errors import InputError
from compliance.task_spec import ImageClassification
from compliance.training_spec import ModelSpec

if TYPE_CHECKING:
    import pandas as pd

    from client.data.table import DataSource


@runtime_checkable
class InFolder(Protocol):
    """A source of rows that lies in a folder, beside the files that its rows name."""

    @property
    def folder(self) -> Path:
        """The table's folder."""
        ...


@dataclass(frozen=True)
class Records:
    """`labels` int64 (n,), and the images of n records: `files`, or grey `pixels` (n, side, side) from 0 to 1."""

    labels: npt.NDArray[np.int64]
    files: tuple[ImageFile, ...] = ()
    pixels: Pixels | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, row: int, channels: int) -> Pixels:
        """(channels, height, width) from 0 to 1. Raises InputError RSD-2332 to RSD-2334."""
        if self.pixels is None:
            return read_image(self.files[row], channels)
        return np.repeat(self.pixels[row][None], channels, axis=0)

    def digest(self) -> str:
        """SHA-256 of what the images hold."""
        if self.pixels is not None:
            return sha256_hex(self.pixels.tobytes())
        return sha256_hex(canonical([f.sha256 for f in self.files]))


class ImageClassifier:
    """See `client.tasks.base.Task`."""

    def columns(self, spec: ImageClassification) -> tuple[str, ...]:
        """The label, and the path (with its digest) or each pixel."""
        named = [c for c in (spec.image_column, spec.sha256_column) if c is not None]
        return (spec.label_column, *named, *_pixel_columns(spec))

    def records(self, spec: ImageClassification, source: DataSource) -> Records:
        """Raises InputError RSD-2300 to RSD-2304, RSD-2331, RSD-2333 (files), RSD-2334 (pixels in columns)."""
        table = source.table(self.columns(spec))
        labels = classes_of(spec, table[spec.label_column])
        if spec.image_column is not None:
            return Records(labels, files=tuple(_files(spec, spec.image_column, table, source)))
        raw = table[list(_pixel_columns(spec))].to_numpy(dtype=object)
        return Records(labels, pixels=grey_columns(raw, spec.pixel_side or 1))

    def inputs_file(self, model: ModelSpec, spec: ImageClassification, records: Records, cache: Path) -> Path:
        """Depends on model, images, size and scaling."""
        scaling: list[Json] = [[c.mean_milli, c.deviation_milli] for c in spec.scaling]
        content: dict[str, Json] = {"images": records.digest(), "side": spec.side, "scaling": scaling}
        return inputs_file(cache, inputs_key(model, content))

    def inputs(
        self,
        model: ModelSpec,
        spec: ImageClassification,
        folder: Path | None,
        records: Records,
        cache: Path,
        device: str,
    ) -> Inputs:
        """`hidden` of the frozen part: (n, places, width), or (n, channels, height, width) of convolutions.

        Raises InputError RSD-2332 to RSD-2336.
        """

        def compute() -> Inputs:
            base = load_encoder(needed(folder))
            _check_model(base, spec)

            def read(start: int, stop: int) -> Inputs:
                rows = [scaled(records.image(i, len(spec.scaling)), spec) for i in range(start, stop)]
                return {"pixel_values": torch.stack(rows)}

            return run_frozen(base, model.trained_layers, len(records), read, device, pool=True)

        return cached(self.inputs_file(model, spec, records, cache), compute)

    def targets(
        self, model: ModelSpec, spec: ImageClassification, folder: Path | None, records: Records
    ) -> torch.Tensor:
        """The classes, int64 (n,)."""
        del model, spec, folder
        return torch.from_numpy(records.labels)

    def top(self, model: ModelSpec, spec: ImageClassification, folder: Path | None) -> Top:
        """See `build_top`."""
        return build_top(model, needed(folder), len(spec.labels))

    def saved_top(
        self, model: ModelSpec, spec: ImageClassification, folder: Path, tensors: dict[str, torch.Tensor]
    ) -> Top:
        """See `saved_top`."""
        return saved_top(model, folder, len(spec.labels), tensors)

    def metrics(
        self, spec: ImageClassification, targets: npt.NDArray[np.int64], scores: npt.NDArray[np.float32]
    ) -> dict[str, float]:
        """See `class_metrics`: `targets` (n,), `scores` (n, classes)."""
        del spec
        return class_metrics(targets, scores)


def scaled(pixels: Pixels, spec: ImageClassification) -> torch.Tensor:
    """Brought to `side` x `side` (bilinear, antialiased; the sides are scaled apart) and scaled by the constants."""
    image = torch.from_numpy(pixels)[None]
    if image.shape[2:] != (spec.side, spec.side):
        image = interpolate(image, (spec.side, spec.side), mode="bilinear", antialias=True, align_corners=False)
    mean = torch.tensor([c.mean_milli / 1000 for c in spec.scaling]).view(-1, 1, 1)
    deviation = torch.tensor([c.deviation_milli / 1000 for c in spec.scaling]).view(-1, 1, 1)
    return (image[0] - mean) / deviation


def _pixel_columns(spec: ImageClassification) -> tuple[str, ...]:
    if spec.pixel_prefix is None or spec.pixel_side is None:
        return ()
    return tuple(f"{spec.pixel_prefix}{i}" for i in range(spec.pixel_side**2))


def _files(spec: ImageClassification, column: str, table: pd.DataFrame, source: DataSource) -> list[ImageFile]:
    if not isinstance(source, InFolder):
        raise InputError(
            "RSD-2331", "this source of rows has no images", rule="images lie below the table's folder",
            found="no folder", limit="a table on disk", next="give the table as a file",
        )  # fmt: skip
    digests = None
    if spec.sha256_column is not None:
        digests = [as_written(v) for v in table[spec.sha256_column].tolist()]
    return image_files(source.folder, [as_written(v) for v in table[column].tolist()], digests)


def _check_model(base: Any, spec: ImageClassification) -> None:
    must_be(base, ("vit", "resnet"), "images")
    side = base.config.image_size if kind_of(base) == "vit" else spec.side
    if (base.config.num_channels, side) != (len(spec.scaling), spec.side):
        raise InputError(
            "RSD-2336", "the images do not fit the model", rule="channels and size are those of the model",
            found=f"{len(spec.scaling)} channels, side {spec.side}", limit=f"{base.config.num_channels}, {side}",
            next="correct task.scaling and task.side in the study",
        )  # fmt: skip


TASK: Task[ImageClassification, Records] = ImageClassifier()
