"""What becomes of a round's conformance checks: their names and pass go on, or the round ends here."""

from __future__ import annotations

from collections.abc import Mapping

from compliance.errors import RunFailed


def passed(found: Mapping[str, bool], of: str) -> dict[str, bool]:
    """All checks by name, all true. Raises RunFailed RSD-4500 naming those that failed. `of`: "round", "evaluation"."""
    if failed := sorted(name for name, good in found.items() if not good):
        raise RunFailed(
            "RSD-4500", f"the noise, the sampling or the release of this {of} is not what the study claims",
            rule="conformance checks, false alarm below 1e-9 a round", found=", ".join(failed),
            limit="all checks pass", next="do not send it; keep the log and report the software version",
        )  # fmt: skip
    return dict(found)
