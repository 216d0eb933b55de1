"""Verify a dossier offline: proofs, signatures, completeness, and every row made again. The first false step ends it.

1. file: canonical, made under the trust file that was given, which is in force.
2. regime: the reading is the one that this package brings, by digest.
3. study: its signed form, if it is here, is the operator's.
4. logs: each checkpoint is signed by its member's key, no line in it is of an unknown key, each entry is proved to
   stand in the log at its index, and lies in the period of a key of its log.
5. whole: the entries of the study are exactly those that each log's last close counts; what is said of each log, the
   members whose log is not here and the packs follow from the entries.
6. articles: every article, made again from the entries by the same code, is the one here, and so is the page beside it.
7. log: with --log, the log itself begins with the entries under the checkpoint, and holds no other of the study.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from compliance.canonical import Json, b64decode, parse_canonical
from compliance.clock import parse_time, rfc3339
from compliance.dossier import derive
from compliance.dossier.given import Given, Tip, held, is_shown, last_time, packs_named, packs_of, tip
from compliance.dossier.material import Held
from compliance.dossier.model import ArticleShown, Dossier, Opened, Source
from compliance.dossier.page import html
from compliance.dossier.regime import Regime, builtin_regimes
from compliance.errors import CheckFailed, ResidencyError
from compliance.log import merkle
from compliance.log.entry import Entry, decode
from compliance.log.evidence import LogEvidence
from compliance.log.expired import removed_by
from compliance.log.view import LogView
from compliance.release.case import Logged
from compliance.release.report import Found, Report, Step, StepResult, step_error
from compliance.release.verify_logs import check_key_period
from compliance.trust.root import Anchor
from compliance.validation import load_model

STEPS: Final = (
    Step(1, "RSD-9101", "file", "the dossier was made under this trust file, which is in force"),
    Step(2, "RSD-9102", "regime", "its reading of the regime is the one that this package brings"),
    Step(3, "RSD-9103", "study", "the study is the one that the operator signed"),
    Step(4, "RSD-9104", "logs", "each entry stands in a log that its member signed; who cosigned is named"),
    Step(5, "RSD-9105", "whole", "the entries of the study are those that each log's close counts"),
    Step(6, "RSD-9106", "articles", "every row, made again from the entries, is the same"),
    Step(7, "RSD-9107", "log", "the log itself holds these entries of the study and no other"),
)
NOT_COVERED: Final = (
    "whether anything was lawful: the regimes are a reading, unreviewed unless they name counsel, and no legal advice",
    "what each article names as NOT COVERED; articles of the regime that the dossier does not list",
    "that nothing bypassed the agents: a log shows what was recorded",
    "what stands in papers: a paper is here by its hash",
)


@dataclass
class _Case:
    """What the steps establish, one after the other."""

    data: bytes
    anchor: Anchor
    at: datetime
    views: Sequence[LogView] | None
    page: bytes | None
    shown: Dossier = field(init=False)
    regime: Regime = field(init=False)
    tips: dict[str, Tip] = field(default_factory=dict)
    held: tuple[Held, ...] = ()

    @property
    def given(self) -> Given:
        """What the rest of the dossier has to follow from."""
        shown = self.shown
        return Given(
            regime=self.regime,
            anchor=self.anchor,
            study=shown.study.digest,
            document=shown.study.document,
            tips=self.tips,
            opened=shown.entries,
            held=self.held,
            packs=shown.packs,
        )


def verify_dossier(
    data: bytes, anchor: Anchor, at: datetime, views: Sequence[LogView] | None = None, page: bytes | None = None
) -> Report:
    """All steps on the bytes of a dossier; `views`: the logs themselves; `page`: what lies beside it for people.

    Errors are in the report, exit code 1.
    """
    case = _Case(data, anchor, at, views, page)
    results: list[StepResult] = []
    failed: StepResult | None = None
    for step, check in zip(STEPS, _CHECKS, strict=True):
        if failed is not None:
            results.append(StepResult(step, "not run"))
            continue
        results.append(_run(step, check, case))
        failed = results[-1] if results[-1].status == "FAIL" else None
    facts: dict[str, Json] = {"mode": "dossier", "at": rfc3339(at), "trust": anchor.digest}
    if failed is None:
        status = {article.id: article.status for article in case.shown.articles}
        facts |= {"regime": case.regime.id, "study": case.shown.study.digest, "articles": status}
    return Report(tuple(results), facts, failed.error if failed else None, NOT_COVERED)


def _run(step: Step, check: Callable[[_Case], Found | None], case: _Case) -> StepResult:
    try:
        found = check(case)
    except ResidencyError as e:
        return StepResult(step, "FAIL", error=step_error(step, e))
    except RecursionError:
        nested = CheckFailed(step.code, "the file is nested too deeply to be read", rule="RFC 8259 section 9")
        return StepResult(step, "FAIL", error=step_error(step, nested))
    if found is None:
        return StepResult(step, "not judged")
    return StepResult(step, "ok" if found.proved else "not judged", found)


def _file(case: _Case) -> Found:
    raw = parse_canonical(case.data.removesuffix(b"\n"), "the dossier")
    case.shown = load_model(Dossier, raw, "RSD-9041", "the dossier")
    if case.shown.encode() != case.data:
        raise _false(
            "RSD-9101", "the dossier is not in its one form", found="other bytes", limit="canonical, a newline"
        )
    trust, anchor = case.anchor.trust, case.anchor
    if (case.shown.trust, case.shown.consortium) != (anchor.digest, trust.consortium):
        raise _false("RSD-9101", "the dossier was made under another trust file", found=case.shown.trust,
                     limit=anchor.digest)  # fmt: skip
    if case.at > parse_time(trust.expires):
        raise _false("RSD-9101", "the trust file has expired", found=rfc3339(case.at), limit=trust.expires)
    return Found((f"made under trust version {trust.version} of {trust.consortium}",))


def _regime(case: _Case) -> Found:
    said = case.shown.regime
    found = builtin_regimes().get(said.id)
    if found is None or said != derive.reading(found):
        raise _false("RSD-9102", f"the reading of {said.id} is not the one that this package brings",
                     found=f"{said.id} version {said.version}, {said.sha256}",
                     limit=found.digest if found else ", ".join(builtin_regimes()),
                     next="verify with the version of the package that made it, or have it made again")  # fmt: skip
    case.regime = found
    reviewed = "DRAFT, no counsel" if found.draft else f"reviewed by {found.reviewer}"
    return Found(
        (f"{found.title}, version {found.version} of our reading ({reviewed}), verified on {found.verified_on}",)
    )


def _study(case: _Case) -> Found:
    study = case.given.document and derive.study_shown(case.given)
    if not study:
        text = f"what study {case.shown.study.digest[:16]} says: its signed form is not here"
        return Found((), ((case.anchor.trust.operator.name, text),))
    if study != case.shown.study:
        raise _false("RSD-9103", "the study is called otherwise than in its signed form", found=case.shown.study.name,
                     limit=study.name)  # fmt: skip
    papers = "that each paper is what its title says, and that controllers and places are as the study names them"
    return Found((f"study {study.name}, {study.digest}, signed by the operator",),
                 ((case.anchor.trust.operator.name, papers),))  # fmt: skip


def _logs(case: _Case) -> Found:
    shown, trust = case.shown, case.anchor.trust
    parsed = [(opened, _entry(opened)) for opened in shown.entries]
    case.held = held(trust, parsed)
    here = [(o.origin, o.index) for o in shown.entries]
    if [(h.origin, h.entry.index) for h in case.held] != here or len(set(here)) != len(here):
        raise _false("RSD-9104", "the entries are not in their order, each once", found="another order",
                     limit="by log and index")  # fmt: skip
    until = parse_time(last_time(case.held) or rfc3339(case.at))
    for said in shown.sources:
        case.tips[said.origin] = _tip(case, said, until)
    for opened, entry in parsed:
        _proved(opened, entry, case.tips)
    for said in shown.sources:
        own = {h.entry.index: h.entry for h in case.held if h.origin == said.origin}
        check_key_period(trust, Logged(said.member, _shim(said), own), case.at)
    return Found(tuple(_cosigned(said) for said in shown.sources), _alone(shown.sources, trust.operator.name))


def _shim(said: Source) -> LogEvidence:
    return LogEvidence(origin=said.origin, checkpoint=said.checkpoint, earlier=(), leaf_hashes=(), entries=())


def _tip(case: _Case, said: Source, until: datetime) -> Tip:
    end = tip(case.anchor.trust, said.origin, said.checkpoint, until)
    if end.text != said.checkpoint or said.origin in case.tips:
        raise _false("RSD-9104", f"the checkpoint of log {said.origin} is not in its one form, once",
                     found=said.checkpoint[-200:], limit=end.text[-200:])  # fmt: skip
    return end


def _entry(opened: Opened) -> Entry:
    entry = decode(b64decode(opened.entry, f"entry {opened.index} of log {opened.origin}"))
    if entry.index != opened.index:
        raise _false("RSD-9104", f"entry {opened.index} of log {opened.origin} is another one", found=entry.index,
                     limit=opened.index)  # fmt: skip
    return entry


def _proved(opened: Opened, entry: Entry, tips: dict[str, Tip]) -> None:
    end = tips.get(opened.origin)
    if end is None:
        raise _false("RSD-9104", f"log {opened.origin} has no checkpoint here", found="none", limit="one for each log")
    proof = [bytes.fromhex(h) for h in opened.proof]
    size, root = end.checkpoint.size, end.checkpoint.root
    if opened.index >= size:
        raise _false("RSD-9104", f"entry {opened.index} of log {opened.origin} lies behind its checkpoint",
                     found=opened.index, limit=f"below {size}")  # fmt: skip
    merkle.verify_inclusion(entry.leaf_hash(), opened.index, size, proof, root)


def _cosigned(said: Source) -> str:
    who = f"cosigned by {', '.join(said.cosigners)}" if said.cosigners else "cosigned by nobody"
    return f"log {said.origin}: {said.size} entries, {who}; each entry here is proved to stand in it"


def _alone(sources: Sequence[Source], operator: str) -> tuple[tuple[str, str], ...]:
    text = "that its log is the one that others saw: nobody but its owner and the operator cosigned the checkpoint"
    return tuple((said.member, text) for said in sources if not set(said.cosigners) - {said.member, operator})


def _whole(case: _Case) -> Found:
    shown, given = case.shown, case.given
    stray = [h for h in case.held if not is_shown(h.entry, given.study, case.regime)]
    if stray:
        raise _false("RSD-9105", f"{stray[0].where} belongs to no article and to another study", found=len(stray),
                     limit="entries of the study")  # fmt: skip
    packs_of(packs_named(case.held, case.regime), shown.packs)
    for what, said, found in (
        ("sources", shown.sources, derive.sources(given)),
        ("missing", shown.missing, derive.missing(given)),
        ("until", shown.until, last_time(case.held)),
        ("study", shown.study, derive.study_shown(given)),
    ):
        if said != found:
            raise _false("RSD-9105", f"what is said of the logs does not follow from the entries: {what}", found=said,
                         limit=found)  # fmt: skip
    proved = [f"log {s.origin}: its {s.entries} entries of the study here are {_WORDS[s.complete]}" for s in
              shown.sources if s.complete in _WORDS]  # fmt: skip
    return Found((*proved, *_removals(case)), _asserted(shown))


def _removals(case: _Case) -> Iterator[str]:
    for said in case.shown.sources:
        own = (h.entry for h in case.held if h.origin == said.origin)
        for removal, many in removed_by(own, said.size).counts().items():
            yield f"log {said.origin} says that it removed {many} entries of {removal.words()}"


_WORDS: Final = {
    "counted": "all that the last close here counts",
    "counted, some expired": "all that the last close here counts, but for those that its compactions say it removed",
}


def _other(source: Source) -> str:
    return f"other entries than the {source.after_close} here" if source.after_close else "entry"


def _asserted(shown: Dossier) -> tuple[tuple[str, str], ...]:
    out = [(s.member, "that its log records what happened") for s in shown.sources]
    out += [
        (s.member, "that the entries it removed had expired, and were of that class")
        for s in shown.sources
        if s.expired
    ]
    out += [
        (s.member, "that no entry of the study lacks here: its close is not here, or counts some whose text expired")
        for s in shown.sources
        if s.complete not in _WORDS
    ]
    out += [
        (s.member, f"that after the close here its log holds no {_other(s)} of the study")
        for s in shown.sources
        if s.complete in _WORDS
    ]
    out += [(name, "what its log says of the study: it is not here") for name in shown.missing]
    text = "that no entry of no study (law sets, data sets, withdrawals, alarms) lacks here"
    return (*out, ("whoever made the dossier", text))


def _articles(case: _Case) -> Found:
    made = derive.articles(case.given)
    if [a.id for a in made] != [a.id for a in case.shown.articles]:
        here, wanted = (", ".join(a.id for a in articles) for articles in (case.shown.articles, made))
        raise _false("RSD-9106", "the articles are not those of the regime", found=here, limit=wanted)
    for said, found in zip(case.shown.articles, made, strict=True):
        if said != found:
            what, differs, follows = _difference(said, found)
            raise _false("RSD-9106", f"{said.citation} ({said.id}): {what} does not follow from the entries",
                         found=differs, limit=follows)  # fmt: skip
    shown = sum(a.status == "evidence shown" for a in made)
    rows = sum(len(table.rows) for a in made for table in a.tables)
    proved = [f"{len(made)} articles, {shown} of them with evidence: {rows} rows made again from the entries"]
    if case.page is not None:
        if case.page != html(case.shown).encode():
            raise _false("RSD-9106", "the page beside the dossier is not the one that is made from it",
                         found="other bytes", limit="the page as this version of the package makes it",
                         next="do not read that page; have it made again with this version")  # fmt: skip
        proved.append("the page beside it is the one that is made from it, byte for byte")
    return Found(tuple(proved))


def _difference(said: ArticleShown, found: ArticleShown) -> tuple[str, object, object]:
    """The first place where an article is another one: what, as it is here, as it follows."""
    for name in ArticleShown.model_fields:
        ours, theirs = getattr(said, name), getattr(found, name)
        if ours != theirs and name != "tables":
            return name, ours, theirs
    for number, table in enumerate(found.tables):
        here = said.tables[number] if number < len(said.tables) else None
        if here is None or (here.caption, here.columns, here.note) != (table.caption, table.columns, table.note):
            return f"table {number + 1}", here and here.caption, table.caption
        if len(here.rows) != len(table.rows):
            return f"the number of rows of table {number + 1}", len(here.rows), len(table.rows)
        for line, (row, made) in enumerate(zip(here.rows, table.rows, strict=True), 1):
            if row != made:
                return f"row {line} of table {number + 1}", " | ".join(row.cells), " | ".join(made.cells)
    return "the number of tables", len(said.tables), len(found.tables)


def _against(case: _Case) -> Found | None:
    """The logs themselves; those of other members than the dossier's are not looked at."""
    if case.views is None:
        return None
    proved: list[str] = []
    asserted: list[tuple[str, str]] = []
    for view in case.views:
        end = case.tips.get(view.origin)
        if end is None:
            continue
        _is_the_log(case, view, end)
        gone = sum(i < end.checkpoint.size for i in view.expired)
        told = " of those whose text it holds" if gone else ""
        proved.append(f"log {view.origin} holds {'all' if view.whole else 'as far as it is shown,'} these entries and "
                      f"no other that belongs here{told}")  # fmt: skip
        if gone:
            asserted.append((end.member, f"which of the {gone} entries whose text is gone belong here"))
    if not proved:
        raise _false("RSD-9107", "none of the logs that were given is one of the dossier's",
                     found=", ".join(v.origin for v in case.views), limit=", ".join(case.tips))  # fmt: skip
    return Found(tuple(proved), tuple(asserted))


def _is_the_log(case: _Case, view: LogView, end: Tip) -> None:
    size = end.checkpoint.size
    root = merkle.prefix_roots(view.leaf_hashes, [size]).get(size)
    if root != end.checkpoint.root:
        raise _false("RSD-9107", f"log {view.origin} does not begin with the entries under the dossier's checkpoint",
                     found=root.hex() if root else f"{view.size} entries", limit=end.checkpoint.root.hex())  # fmt: skip
    here = {h.entry.index for h in case.held if h.origin == view.origin}
    lacking = [
        i for i, e in view.entries.items() if i < size and i not in here and is_shown(e, case.given.study, case.regime)
    ]
    if lacking:
        raise _false("RSD-9107", f"the dossier leaves out entry {lacking[0]} of log {view.origin}",
                     found=f"{len(lacking)} entries left out", limit="every entry that belongs here")  # fmt: skip


_CHECKS: Final = (_file, _regime, _study, _logs, _whole, _articles, _against)


def _false(code: str, message: str, *, found: object, limit: object, next: str = "") -> CheckFailed:
    rule = "a dossier follows from the entries in it, and they from the logs"
    advice = next or "do not rely on this dossier; have it made again from the logs"
    return CheckFailed(code, message, rule=rule, found=_brief(found), limit=_brief(limit), next=advice)


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 300 else f"{text[:300]}..."
