"""What a verification found: numbered steps, then what is proved, what is asserted by whom, what is not covered."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from compliance.canonical import Json
from compliance.errors import CheckFailed, ResidencyError

Status = Literal["ok", "FAIL", "not run", "not judged"]


@dataclass(frozen=True)
class Step:
    """One numbered check; `code` is that of its failure."""

    number: int
    code: str
    name: str
    question: str


STEPS = (
    Step(1, "RSD-9001", "manifest", "an operator signed the list of files, and the files are those"),
    Step(2, "RSD-9002", "trust", "the bundle was made under this trust file, which is in force"),
    Step(3, "RSD-9003", "study", "the operator signed the study, and its sites are members"),
    Step(4, "RSD-9004", "answers", "each contributing site's signatory approved, on its DPO's advice"),
    Step(5, "RSD-9005", "software", "approvals name the study's software and no other"),
    Step(6, "RSD-9006", "packs", "each site decided under the law set that its signatory adopted, unexpired"),
    Step(7, "RSD-9007", "logs", "each log is the one that others cosigned, with all its entries of the study"),
    Step(8, "RSD-9008", "rosters", "every round and every site is accounted for and countersigned"),
    Step(9, "RSD-9009", "order", "charged, committed and decided before anything left; the same bytes throughout"),
    Step(10, "RSD-9010", "decisions", "each transfer was allowed, and deciding again gives the same"),
    Step(11, "RSD-9011", "denials", "no shown log records a transfer to a site that a refusal or a shown log denies"),
    Step(12, "RSD-9012", "privacy", "eps recomputed from every charge is the claimed one, within the study's"),
    Step(
        13, "RSD-9013", "model", "the released model is the mean of the last globals, in the layout that sites logged"
    ),
    Step(14, "RSD-9014", "card", "the model card follows from the evidence, byte for byte"),
    Step(15, "RSD-9015", "evaluation", "the figures follow from the noised counts that the sites signed, each charged"),
    Step(16, "RSD-9016", "statements", "what the operator attests for other people's tools is what the evidence gives"),
    Step(17, "RSD-9017", "signature", "the model's own signature is of just these files, by the key beside it"),
    Step(18, "RSD-9018", "materials", "the bill of materials follows from the evidence, byte for byte"),
    Step(
        19, "RSD-9019", "proofs", "each proof of an entry is the one that the logs give, to their cosigned checkpoint"
    ),
)
NOT_COVERED = (
    "whether training the model, or any transfer, was lawful: the law packs are a reading, and say who reviewed them",
    "whether the data are accurate, representative or free of bias; whether the model is fit for any clinical use",
    "a measured lower bound on privacy leakage: none was measured for this bundle",
    "that nothing bypassed the agents: a log shows what was recorded",
    "revocations issued after the trust file that was given",
)


@dataclass(frozen=True)
class Found:
    """What one step established. `proved` are sentences; `asserted` are pairs (who says so, sentence)."""

    proved: tuple[str, ...] = ()
    asserted: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class StepResult:
    """A step with its outcome; `error` only for FAIL."""

    step: Step
    status: Status
    found: Found = Found()
    error: ResidencyError | None = None


@dataclass(frozen=True)
class Report:
    """All steps, in order. After the first failure the others are not run: they would rest on what is false."""

    results: tuple[StepResult, ...]
    facts: dict[str, Json] = field(default_factory=dict)
    error: ResidencyError | None = None
    not_covered: tuple[str, ...] = NOT_COVERED

    @property
    def failed(self) -> StepResult | None:
        """The step that is false."""
        return next((r for r in self.results if r.status == "FAIL"), None)

    def asserted(self) -> dict[str, list[str]]:
        """Sentences by the one who asserts them."""
        out: dict[str, list[str]] = {}
        for result in self.results:
            for who, text in result.found.asserted:
                out.setdefault(who, []).append(text)
        return out

    def fields(self) -> dict[str, Json]:
        """For the JSON output."""
        steps = [
            {"number": r.step.number, "name": r.step.name, "status": r.status, "proved": list(r.found.proved)}
            for r in self.results
        ]
        proved = [line for r in self.results for line in r.found.proved]
        return {
            **self.facts,
            "steps": steps,
            "failed_step": self.failed.step.number if self.failed else None,
            "proved": proved,
            "asserted": self.asserted(),
            "not_covered": list(self.not_covered),
        }

    def lines(self) -> list[str]:
        """For people. Sentences that many sites assert alike are printed once."""
        out = [f"{r.step.number:>3}. {r.step.name:<10} {r.status:<10} {r.step.question}" for r in self.results]
        if self.failed and self.failed.error:
            error = self.failed.error
            said = (error.message, f"found {error.found or 'nothing'}; limit {error.limit or 'none'}")
            out += [f"     {text}".replace("\n", "\\n") for text in said]
        else:
            out += ["", "PROVED", *(f"  - {line}" for r in self.results for line in r.found.proved)]
            by_text: dict[str, list[str]] = {}
            for who, texts in self.asserted().items():
                for text in texts:
                    by_text.setdefault(text, []).append(who)
            for text, who_says in by_text.items():
                out += ["", f"ASSERTED BY {', '.join(sorted(who_says))}", f"  - {text}"]
        return [*out, "", "NOT COVERED", *(f"  - {line}" for line in self.not_covered)]


def step_error(step: Step, cause: ResidencyError) -> CheckFailed:
    """The failure of `step`, with the message, rule and both values of its cause. Exit code 1 whatever the cause."""
    origin = "" if cause.code == step.code else f" ({cause.code})"
    return CheckFailed(
        step.code,
        f"step {step.number} ({step.name}): {cause.message}{origin}",
        rule=cause.rule,
        found=cause.found,
        limit=cause.limit,
        next=cause.next or "do not rely on this bundle; ask the operator, and compare with another site's copy",
    )
