"""Which parameters a run trains, from what the sites say when they join: decisions without I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from compliance.canonical import Json
from compliance.errors import InputError, RunFailed
from compliance.messages import JoinReply, LayoutEntry
from compliance.release.model_files import LayoutFile, check_layout
from compliance.study import Study
from compliance.validation import load_model

Layout = tuple[LayoutEntry, ...]
_NEXT = "compare the model folders and the installed versions"


def check_reply(reply: JoinReply, study: Study) -> None:
    """The layout is one of this study's model, as a verifier of the release will ask. Raises RunFailed RSD-8201.

    A built-in model has one layout; of others the study fixes head, adapters and number of layers, not the widths.
    """
    entries: list[Json] = [e.model_dump(mode="json", exclude_none=True) for e in reply.layout]
    try:
        value = {"schema": "residency.layout/1", "entries": entries}
        check_layout(load_model(LayoutFile, value, "RSD-9042", f"the layout of {reply.site}"), study)
    except InputError as e:
        raise RunFailed(
            "RSD-8201",
            f"site {reply.site} trains parameters that are not of the study's model",
            rule="the layout follows from the study's model and task",
            found=e.message,
            limit="a layout of the study",
            next=_NEXT,
        ) from e


def agreed(replies: Mapping[str, JoinReply]) -> Layout | None:
    """The layout of more sites than any other, in whatever order they answered; None without replies or in a tie."""
    counted = Counter(r.layout for r in replies.values()).most_common(2)
    tie = len({count for _, count in counted}) < len(counted)
    return None if tie or not counted else counted[0][0]


def check_agreed(reply: JoinReply, layout: Layout | None) -> None:
    """The site trains what the run trains. Raises RunFailed RSD-8201."""
    if layout is None or reply.layout != layout:
        raise RunFailed(
            "RSD-8201",
            f"site {reply.site} trains other parameters than " + ("the most sites" if layout else "as many others"),
            rule="the model's layout is the same at every site; that of the most sites counts, and none in a tie",
            found=f"{len(reply.layout)} arrays",
            limit=f"{len(layout)} arrays" if layout else "a layout of the most sites",
            next=_NEXT,
        )
