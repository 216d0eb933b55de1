"""What the desk shows: bundles, run folders, homes and files; what is broken is kept beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from compliance.errors import CheckFailed, InputError, ResidencyError
from compliance.log import merkle
from compliance.log.view import LogView, read_views
from compliance.release import manifest
from compliance.release.bundle_folder import read_folder
from compliance.release.case import Contents, PrivacyClaims
from compliance.study import Study

Form = Literal["bundle", "run folder", "home", "file"]
# What pages show, and the file it needs.
_PARTS = {"study": "study.json", "rosters": "", "packs": "regions.yaml", "claims": "privacy.json"}
_HEAVY = ("snapshots/", "model/")  # weights: no page shows them, and a check reads them again


@dataclass(frozen=True)
class Flaw:
    """What could not be read, or is not what it should be, and where."""

    where: str
    error: ResidencyError


@dataclass(frozen=True)
class Log:
    """One log of one place. `number` is its name in the desk's addresses."""

    number: int
    place: int
    view: LogView

    @cached_property
    def subtrees(self) -> merkle.Subtrees:
        """The inner nodes of its tree, each hashed once."""
        return merkle.subtrees_of(self.view.leaf_hashes)

    @cached_property
    def root(self) -> bytes:
        """The root over all its leaf hashes."""
        return merkle.root_from(self.subtrees, self.view.size)


@dataclass(frozen=True)
class Place:
    """One path that was given. `contents` without weights, of a bundle or run folder; judges nothing.

    unread: why nothing of it could be read.
    """

    number: int
    path: Path
    form: Form
    contents: Contents | None
    logs: tuple[Log, ...]
    flaws: tuple[Flaw, ...]
    unread: ResidencyError | None = None

    @property
    def name(self) -> str:
        """The last part of its path: a reader from outside learns nothing of the machine's folders."""
        return self.path.absolute().name

    @cached_property
    def study(self) -> tuple[str, Study] | None:
        """Digest and text of its study, unverified; None without one."""
        if self.contents is None or "study.json" not in self.contents.files:
            return None
        try:
            return self.contents.study_digest, self.contents.study
        except ResidencyError:  # `flaws` holds it
            return None

    @cached_property
    def claims(self) -> PrivacyClaims | None:
        """What its bundle claims of privacy loss, unverified; None without it."""
        if self.contents is None or "privacy.json" not in self.contents.files:
            return None
        try:
            return self.contents.claims
        except ResidencyError:  # `flaws` holds it
            return None


def read_places(paths: Sequence[Path]) -> tuple[Place, ...]:
    """Each path, in order. One that cannot be read is a place with a flaw and without logs.

    Raises what the first raises if none can be read, and InputError RSD-2005 for a path that is not there.
    """
    places: list[Place] = []
    for number, path in enumerate(paths, 1):
        try:
            places.append(read_place(path, number, sum(len(p.logs) for p in places)))
        except ResidencyError as e:
            if not path.exists():
                raise
            places.append(Place(number, path, _form(path), None, (), (Flaw(path.absolute().name, e),), unread=e))
    first = next((place.unread for place in places), None)
    if first is not None and all(place.unread for place in places):
        raise first
    return tuple(places)


def read_place(path: Path, number: int, before: int = 0) -> Place:
    """One path; `before` logs stand in the places before it. A log that is broken is a flaw, and is not shown.

    Raises ResidencyError where there is nothing to show.
    """
    flaws: list[Flaw] = []
    form, contents = _form(path), None
    if form in {"bundle", "run folder"}:
        contents = _contents(path, flaws)
    files = sorted((path / "evidence").glob("*.json")) if form in {"bundle", "run folder"} else [path]
    views: list[LogView] = []
    for file in files:
        try:
            views += read_views(file)
        except CheckFailed as e:
            flaws.append(Flaw(_where(path, file), e))
        except InputError as e:
            if file == path:
                raise
            flaws.append(Flaw(_where(path, file), e))
    logs = tuple(Log(before + i, number, view) for i, view in enumerate(views, 1))
    return Place(number, path, form, contents, logs, tuple(flaws))


def _form(path: Path) -> Form:
    if not path.is_dir():
        return "file"
    if (path / "log.db").is_file() or not (path / "evidence").is_dir():
        return "home"
    return "bundle" if (path / manifest.PATH).is_file() else "run folder"


def _where(path: Path, file: Path) -> str:
    return f"{path.absolute().name}/{file.relative_to(path).as_posix()}" if file != path else path.absolute().name


def _contents(path: Path, flaws: list[Flaw]) -> Contents | None:
    try:
        files = read_folder(path)
    except CheckFailed as e:
        flaws.append(Flaw(path.absolute().name, e))
        return None
    contents = Contents({name: data for name, data in files.items() if not name.startswith(_HEAVY)})
    for part, needs in _PARTS.items():
        try:
            if needs in {"", *files}:
                getattr(contents, part)
        except ResidencyError as e:
            flaws.append(Flaw(f"{path.absolute().name}, {part}", e))
    return contents
