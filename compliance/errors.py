"""Every error of Residency.

    ResidencyError
     |- CheckFailed       exit 1   a check is false
     |- UsageError        exit 2   the command line is wrong
     |- InputError        exit 3   a file or value is wrong
     |- Refused           exit 4   law, policy, budget or approval says no
     |- NoTrustAnchor     exit 5   nothing to judge signatures by
     |- PeerUnreachable   exit 6   the other side does not answer
     |- EnvironmentFault  exit 7   this machine: disk, port, versions, clock
     |- RunFailed         exit 8   a run ended without its result
     |- Interrupted       exit 130 somebody stopped the command
     `- InternalBug       exit 70  please report

An error says what was refused (`message`), by which rule (`rule`), both values (`found`, `limit`) and what to do next
(`next`). Codes are explained in compliance/codes/*.yaml and by `residency explain CODE`.
"""

from __future__ import annotations

from typing import ClassVar


class ResidencyError(Exception):
    """Root of all errors raised on purpose; the command line catches only this class.

    `code` is "RSD-" and four digits. `found` and `limit` are short printable values, never patient data.
    """

    exit_code: ClassVar[int] = 70

    def __init__(
        self, code: str, message: str, *, rule: str = "", found: object = "", limit: object = "", next: str = ""
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.rule = rule
        self.found = str(found)
        self.limit = str(limit)
        self.next = next

    def as_json(self) -> dict[str, str]:
        """The `error` object of the JSON output and of refusal replies."""
        return {
            "code": self.code,
            "message": self.message,
            "rule": self.rule,
            "found": self.found,
            "limit": self.limit,
            "next": self.next,
        }

    def __str__(self) -> str:
        parts = [f"{self.code} {self.message}"]
        if self.rule:
            parts.append(f"rule: {self.rule}")
        if self.found or self.limit:
            parts.append(f"found {self.found or 'nothing'}, limit {self.limit or 'none'}")
        if self.next:
            parts.append(f"next: {self.next}")
        return "; ".join(parts)


class CheckFailed(ResidencyError):
    """A check was carried out and is false."""

    exit_code = 1


class UsageError(ResidencyError):
    """The command was called wrongly."""

    exit_code = 2


class InputError(ResidencyError):
    """A file or a value that somebody supplied is wrong."""

    exit_code = 3


class Refused(ResidencyError):
    """Law, policy, budget or a missing approval says no."""

    exit_code = 4


class NoTrustAnchor(ResidencyError):
    """Signatures cannot be judged, because no trust file was given."""

    exit_code = 5


class PeerUnreachable(ResidencyError):
    """The other side does not answer."""

    exit_code = 6


class EnvironmentFault(ResidencyError):
    """This machine lacks something: disk, port, version, clock."""

    exit_code = 7


class RunFailed(ResidencyError):
    """A run ended without its result."""

    exit_code = 8


class Interrupted(ResidencyError):
    """Somebody at this machine stopped the command; no peer ever sends it."""

    exit_code = 130


class InternalBug(ResidencyError):
    """A state that cannot be; please report it."""

    exit_code = 70


_BY_EXIT = {
    c.exit_code: c
    for c in (
        CheckFailed,
        UsageError,
        InputError,
        Refused,
        NoTrustAnchor,
        PeerUnreachable,
        EnvironmentFault,
        RunFailed,
        InternalBug,
    )
}


def error_class(exit_code: int) -> type[ResidencyError]:
    """The class with this exit code; `InternalBug` for an unknown one."""
    return _BY_EXIT.get(exit_code, InternalBug)
