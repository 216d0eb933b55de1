"""Images on a site's disk: PNG and JPEG through Pillow, .npy without pickle. No error names a file or a value."""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from compliance.errors import InputError
from compliance.files import absolute

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = npt.NDArray[np.float32]  # (channels, height, width), from 0 to 1

_MOST_BYTES: Final = 64 << 20
_MOST_PIXELS: Final = 1 << 26
_PICTURES: Final = (".png", ".jpg", ".jpeg")
_NPY: Final = b"\x93NUMPY"
_DEPTHS: Final = {"uint8": 255.0, "uint16": 65535.0}


@dataclass(frozen=True)
class ImageFile:
    """A file with the digest that it had when the table was read."""

    path: Path
    sha256: str


def image_files(folder: Path, names: Sequence[str | None], digests: Sequence[str | None] | None) -> list[ImageFile]:
    """The files of these names, in order. A name is a path below `folder`, with no link that leads out of it.

    Raises InputError RSD-2331 (no name, no such file, not below the folder, another suffix, above 64 MiB), RSD-2333
    (`digests` are given, and a file has another one).
    """
    root = absolute(folder, "the table's folder")
    out = []
    for i, name in enumerate(names):
        path = _path(root, name)
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if digests is not None and found != digests[i]:
            raise _changed()
        out.append(ImageFile(path, found))
    return out


def _path(root: Path, name: str | None) -> Path:
    path = _below(root, name) if name else None
    if path is None or path.suffix.lower() not in (*_PICTURES, ".npy") or path.stat().st_size > _MOST_BYTES:
        raise InputError(
            "RSD-2331", "an image that the table names is not there",
            rule="a path below the table's folder to .png, .jpg, .jpeg or .npy, at most 64 MiB",
            found="no such file", limit="a readable file", next="export the images again, beside the table",
        )  # fmt: skip
    return path


def _below(root: Path, name: str) -> Path | None:
    """The file of that name below `root`; None without one."""
    try:
        path = (root / name).resolve()
        there = not Path(name).is_absolute() and path.is_relative_to(root) and path.is_file()
    except (OSError, ValueError, RuntimeError):  # too long, no text of a path, links in a circle
        return None
    return path if there else None


def read_image(file: ImageFile, channels: int) -> Pixels:
    """The pixels, with 1 (grey) or 3 channels. Raises InputError RSD-2332 (no image), RSD-2333, RSD-2334 (values)."""
    data = file.path.read_bytes()
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise _changed()
    try:
        pixels = _array(data) if file.path.suffix.lower() == ".npy" else _picture(data, channels)
    except _BROKEN as e:
        raise _no_image(type(e).__name__) from None
    if pixels.size == 0 or not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 1:
        raise bad_pixels()
    return _with_channels(pixels, channels)


_BROKEN: Final = (
    OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, ArithmeticError, struct.error, MemoryError,
)  # fmt: skip


def _picture(data: bytes, channels: int) -> Pixels:
    from PIL import Image as Pillow  # noqa: PLC0415 - as above

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Pillow.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
                return _decoded(image, channels)
    except (Pillow.DecompressionBombError, Warning) as e:
        raise ValueError("too many pixels, or damaged") from e


def _decoded(image: Image, channels: int) -> Pixels:
    if image.width * image.height > _MOST_PIXELS:
        raise ValueError("too many pixels")
    if image.mode.startswith("I"):  # 16 bits of grey
        return np.asarray(image, dtype=np.float32)[None] / np.float32(_DEPTHS["uint16"])
    whole = image.convert("RGBA") if "transparency" in image.info else image  # else Pillow warns for some palettes
    plain = np.asarray(whole.convert("L" if channels == 1 else "RGB"), dtype=np.float32)
    return _planes(plain) / np.float32(_DEPTHS["uint8"])


def _array(data: bytes) -> Pixels:
    if not data.startswith(_NPY):  # numpy would also open a zip file, or a pickle
        raise ValueError("no .npy file")
    raw = np.load(io.BytesIO(data), allow_pickle=False)
    if raw.ndim not in (2, 3) or raw.dtype.kind not in "uf" or raw.dtype.name in ("uint32", "uint64"):
        raise ValueError("no image")
    return _planes(raw.astype(np.float32)) / np.float32(_DEPTHS.get(raw.dtype.name, 1.0))


def _planes(raw: Pixels) -> Pixels:
    """(height, width) or (height, width, channels) -> (channels, height, width)."""
    if raw.ndim == 3 and raw.shape[2] not in (1, 3):
        raise ValueError("neither grey nor red, green, blue")
    return raw[None] if raw.ndim == 2 else np.moveaxis(raw, 2, 0)


def _with_channels(pixels: Pixels, channels: int) -> Pixels:
    if len(pixels) == channels:
        return np.ascontiguousarray(pixels)
    return np.repeat(pixels, channels, axis=0) if channels > 1 else pixels.mean(axis=0, keepdims=True)


def grey_columns(values: npt.NDArray[np.object_], side: int) -> Pixels:
    """Rows of `side` * `side` numbers from 0 to 255 -> (n, side, side) from 0 to 1. Raises InputError RSD-2334."""
    try:
        numbers = values.astype(np.float32)
    except (ValueError, TypeError):
        raise bad_pixels() from None
    if not np.isfinite(numbers).all() or numbers.min() < 0 or numbers.max() > _DEPTHS["uint8"]:
        raise bad_pixels()
    return numbers.reshape(len(numbers), side, side) / np.float32(_DEPTHS["uint8"])


def bad_pixels() -> InputError:
    """RSD-2334."""
    return InputError(
        "RSD-2334", "an image holds values that are no pixels", rule="pixels are finite numbers: 0 to 255 in columns, "
        "whole 8 or 16 bits or fractions from 0 to 1 in .npy", found="missing, not finite or out of range",
        limit="0 to 255, or 0 to 1", next="correct the export",
    )  # fmt: skip


def _no_image(kind: str) -> InputError:
    return InputError(
        "RSD-2332", "an image cannot be read", rule="PNG, JPEG, or .npy of a grey or colour image", found=kind,
        limit="at most 2^26 pixels", next="export the images again",
    )  # fmt: skip


def _changed() -> InputError:
    return InputError(
        "RSD-2333", "an image is not the one of the table", rule="each file has the SHA-256 that its row states",
        found="another digest", limit="the registered extract", next="restore the images, or register a new extract",
    )  # fmt: skip
