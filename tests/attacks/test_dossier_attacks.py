"""Somebody edits the evidence for an article, or the log behind it: refused, by the name of the article."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from compliance.canonical import b64decode, b64encode, canonical, parse_canonical
from compliance.dossier.model import Dossier
from compliance.dossier.page import html
from compliance.dossier.regime import load_regime, regime_called
from compliance.errors import CheckFailed
from compliance.log import checkpoint, merkle, note
from compliance.log.checkpoint import Checkpoint
from compliance.log.entry import Entry, new_entry
from compliance.log.view import LogView, view_of
from compliance.study import Study
from compliance.validation import try_model
from tests.dossiers import changed, dossier, failed, made_of, verdict, views
from tests.world import OPERATOR, World, build_world, rebuilt, study_json, world

Raw = dict[str, Any]


@cache
def honest() -> Dossier:
    return dossier("gdpr", OPERATOR, "site-a")


def article(raw: Raw, name: str = "art-44-49") -> Raw:
    found: Raw = next(a for a in raw["articles"] if a["id"] == name)
    return found


def denials(raw: Raw) -> Raw:
    return next(t for t in article(raw)["tables"] if "denials" in t["caption"])  # type: ignore[no-any-return]


def _as_allowed(raw: Raw) -> None:
    cells = denials(raw)["rows"][0]["cells"]
    cells[cells.index("DENY")] = "ALLOW"


def _reached_by_nobody(raw: Raw) -> None:
    rows = denials(raw)["rows"]
    rows[0]["rests_on"] = rows[1]["rests_on"]


def _witnessed_by_somebody(raw: Raw) -> None:
    """A line of a key that the trust file does not know: it is ignored elsewhere, and would look like a witness."""
    raw["sources"][0]["checkpoint"] += note.Signature("somebody", b"\0\0\0\1", b"\0" * 72).line()


EDITS: dict[str, tuple[int, str, Callable[[Raw], object]]] = {
    "a denial told as allowed": (6, "GDPR Art 44 to 49", _as_allowed),
    "a denial dropped": (6, "GDPR Art 44 to 49", lambda r: denials(r)["rows"].pop(0)),
    "a row added": (6, "GDPR Art 44 to 49", lambda r: denials(r)["rows"].append(denials(r)["rows"][0])),
    "a row shown by another entry": (6, "GDPR Art 44 to 49", _reached_by_nobody),
    "a gap taken out": (6, "GDPR Art 30(1)", lambda r: article(r, "art-30")["not_covered"].pop()),
    "a sentence reworded": (6, "GDPR Art 32", lambda r: article(r, "art-32").update(asks="Nothing much.")),
    "an outcome improved": (6, "GDPR Art 35(7)", lambda r: article(r, "art-35-annex").update(status="NOT COVERED")),
    "an article dropped": (6, "articles are not those", lambda r: r["articles"].pop(1)),
    "a table dropped": (6, "GDPR Art 32", lambda r: article(r, "art-32")["tables"].pop()),
    "a caption changed": (6, "GDPR Art 32", lambda r: article(r, "art-32")["tables"][0].update(caption="All is well")),
    "the reading claimed to be reviewed": (2, "reading of gdpr", lambda r: r["regime"].update(reviewer="A Counsel")),
    "another reading's digest": (2, "reading of gdpr", lambda r: r["regime"].update(sha256="ab" * 32)),
    "another trust file": (1, "another trust file", lambda r: r.update(trust="ab" * 32)),
    "another consortium": (1, "another trust file", lambda r: r.update(consortium="other")),
    "another study": (3, "another one", lambda r: r["study"].update(digest="ab" * 32)),
    "the study renamed": (3, "called otherwise", lambda r: r["study"].update(name="heart-two")),
    "the signed study taken out": (6, "Art 30(1)", lambda r: r["study"].update(document="")),
    "the end moved": (5, "until", lambda r: r.update(until="2027-01-01T00:00:00Z")),
    "a missing member hidden": (5, "missing", lambda r: r["missing"].pop()),
    "a cosigner invented": (5, "sources", lambda r: r["sources"][0]["cosigners"].append("site-e")),
    "a log called complete": (5, "sources", lambda r: r["sources"][0].update(complete="counted, some expired")),
    "a log longer than it is": (5, "sources", lambda r: r["sources"][0].update(size=99)),
    "a pack left out": (6, "GDPR Art 30(1)", lambda r: r.update(packs=[])),
    "a pack exchanged": (5, "law packs", lambda r: r["packs"][0].update(data=b64encode(b"schema: other"))),
    "an entry left out": (5, "other entries of the study", lambda r: r["entries"].pop(7)),
    "an entry twice": (4, "each once", lambda r: r["entries"].insert(3, r["entries"][3])),
    "a proof cut": (4, "", lambda r: r["entries"][3]["proof"].pop()),
    "a witness that nobody knows": (4, "one form", _witnessed_by_somebody),
    "a log left out": (4, "no checkpoint here", lambda r: r["sources"].pop()),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_dossier_is_refused(name: str) -> None:
    step, said, change = EDITS[name]
    number, message = failed(verdict(changed(honest(), change)))
    assert (number, said in message) == (step, True), message


def test_the_dossier_that_was_edited_is_sound() -> None:
    assert failed(verdict(honest())) == (0, "")


def _flip(raw: Raw) -> None:
    """A denial in the log itself told as ALLOW: another entry, at the same index."""
    for opened in raw["entries"]:
        entry = parse_canonical(b64decode(opened["entry"], "entry"), "entry")
        if entry["kind"] == "decision" and not entry["body"]["allow"]:
            entry["body"]["allow"] = True
            opened["entry"] = b64encode(canonical(entry))
            return


def test_an_entry_rewritten_is_not_in_the_log() -> None:
    number, message = failed(verdict(changed(honest(), _flip)))
    assert (number, "RSD-50" in message) == (4, True)


def without_a_denial(made: World, *cosigners: str) -> LogView:
    """site-a's log without its first denial, built and signed again with its real key."""
    entries = made.entries("site-a")
    denied = next(e for e in entries if e.kind == "decision" and not e.body["allow"])
    return view_of(rebuilt(made, "site-a", [e for e in entries if e is not denied], cosigners), "site-a")


def test_a_denial_dropped_from_a_rebuilt_log_is_missed_by_its_close() -> None:
    with pytest.raises(CheckFailed, match="other entries of the study") as e:
        made_of(regime_called("gdpr"), [without_a_denial(world(), "site-b")])
    assert e.value.code == "RSD-9105"


def test_a_log_rebuilt_with_a_new_close_lacks_its_cosignatures_and_is_convicted_by_the_log() -> None:
    """The insider cuts the close too: nothing counts, nobody cosigned, and the dossier says both."""
    own = world()
    kept = [
        e for e in own.entries("site-a") if e.kind != "close" and not (e.kind == "decision" and not e.body["allow"])
    ]
    made = made_of(regime_called("gdpr"), [view_of(rebuilt(own, "site-a", kept), "site-a")])
    report = verdict(made)
    assert failed(report) == (0, "")
    said = " ".join(report.asserted()["site-a"])
    assert "nobody but its owner and the operator cosigned" in said
    assert "its close is not here" in said
    number, message = failed(verdict(made, logs=views(None, "site-a")))
    assert (number, "does not begin with" in message) == (7, True)


def test_an_entry_of_no_study_left_out_is_seen_with_the_log() -> None:
    """What nothing counts is the maker's word; the log shows it."""
    (full,) = views(None, "site-a")
    cut = {i: e for i, e in full.entries.items() if e.kind != "close"}
    last = max(i for i, e in cut.items() if e.kind == "roster")
    made = made_of(regime_called("gdpr"), [replace(full, entries={i: e for i, e in cut.items() if i != last})])
    assert failed(verdict(made)) == (0, "")
    number, message = failed(verdict(made, logs=[full]))
    assert (number, f"leaves out entry {last}" in message) == (7, True)
    number, message = failed(verdict(made, logs=views(None, "site-b")))
    assert (number, "none of the logs" in message) == (7, True)


@cache
def foreign() -> World:
    return build_world()


def test_a_dossier_rebuilt_under_a_foreign_root_is_refused() -> None:
    """The same names, all keys new: everything in it is consistent."""
    theirs = made_of(regime_called("gdpr"), views(foreign()), foreign())
    assert failed(verdict(theirs, foreign())) == (0, "")
    number, message = failed(verdict(theirs))
    assert (number, "another trust file" in message) == (1, True)
    claimed = changed(theirs, lambda r: r.update(trust=world().anchor.digest))
    number, message = failed(verdict(claimed))
    assert (number, "nobody entitled signed" in message) == (3, True)
    unsigned = changed(theirs, lambda r: (r.update(trust=world().anchor.digest), r["study"].update(document="")))
    number, message = failed(verdict(unsigned))
    assert (number, "not signed by a key of" in message) == (4, True)


def test_a_softened_regime_is_not_the_packages() -> None:
    from compliance.dossier import regime as regimes

    data = (regimes._FOLDER / "gdpr.yaml").read_bytes()
    softer = load_regime(data.replace(b"        denied: true\n", b""), "gdpr.yaml")
    number, message = failed(verdict(made_of(softer, views())))
    assert (number, "is not the one that this package brings" in message) == (2, True)


def test_a_dossier_is_judged_before_its_trust_file_expires() -> None:
    from compliance.clock import parse_time
    from compliance.dossier.verify import verify_dossier

    late = verify_dossier(honest().encode(), world().anchor, parse_time("2030-01-01"))
    assert failed(late)[0] == 1
    early = verify_dossier(honest().encode(), world().anchor, parse_time("2026-11-01"))
    assert "is of the future" in failed(early)[1]


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]\n", b'{"schema":"residency.dossier/1"}\n', b"[" * 70, b"\xff"])
def test_garbage_is_a_false_first_step(data: bytes) -> None:
    assert failed(verdict(data))[0] == 1


HOSTILE = "</td><script>alert(1)</script><img src=x onerror=alert(1)> \u202egnp.exe\u202c \"'&"


def test_hostile_text_stays_text_on_the_page() -> None:
    made = honest()
    tables = tuple(
        t.model_copy(update={"rows": tuple(r.model_copy(update={"cells": (HOSTILE,) * len(r.cells)}) for r in t.rows)})
        for t in made.articles[0].tables
    )
    articles = (made.articles[0].model_copy(update={"tables": tables, "title": HOSTILE}), *made.articles[1:])
    sources = tuple(s.model_copy(update={"member": HOSTILE}) for s in made.sources)
    study = made.study.model_copy(update={"name": HOSTILE})
    page = html(made.model_copy(update={"articles": articles, "study": study, "sources": sources}), HOSTILE)
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page


def test_names_of_sites_and_studies_cannot_hold_markup() -> None:
    for change in ({"name": "<script>"}, {"controllers": ["x"], "name": 'a"b'}):
        mistakes, found = try_model(Study, {**study_json(), **change})
        assert found is None
        assert [m.field for m in mistakes] == ["name"]


def _claims(raw: Raw, origin: str, index: int, entries: tuple[Entry, ...]) -> None:
    """A made-up tree of index + 1 entries, signed with the member's own key; its last one or two opened."""
    root, proofs = entries[-1].leaf_hash(), [[]]
    if len(entries) == 2:
        leaves = [e.leaf_hash() for e in entries]
        root, proofs = merkle.node_hash(*leaves), [[leaves[1].hex()], [leaves[0].hex()]]
    above = b"\1" * 32
    root = merkle.node_hash(above, root)
    made = Checkpoint(origin, index + len(entries), root)
    source = raw["sources"][0]
    text = checkpoint.sign(made, world().log_signer("site-a").private)
    source.update(checkpoint=text, size=made.size, root=root.hex(), cosigners=[])
    raw["entries"] = [
        {"origin": origin, "index": e.index, "entry": b64encode(e.encode()), "proof": [*p, above.hex()]}
        for e, p in zip(entries, proofs, strict=True)
    ]
    raw["packs"] = []


@pytest.mark.parametrize("closed", [False, True], ids=["no close", "a close that counts them"])
def test_a_compaction_that_claims_more_than_any_memory_holds_is_refused_at_once(closed: bool) -> None:
    origin, index, many = world().origin("site-a"), 1 << 40, 1 << 39
    body = {
        "record_class": "decision", "before": "2026-11-20T00:00:00Z", "policy": "x", "law_set": "ab" * 32,
        "ranges": [[0, many - 1]], "leaves_sha256": "00" * 32,
    }  # fmt: skip
    entries = [new_entry(index, "2026-11-22T11:00:00Z", "compaction", body)]
    if closed:
        close = {"rounds": 0, "rosters": [], "entries": many, "entries_sha256": "0" * 64}
        entries.append(new_entry(index + 1, "2026-11-22T11:00:00Z", "close", close, world().study_digest))
    verdict_ = verdict(changed(dossier("gdpr", "site-a"), lambda raw: _claims(raw, origin, index, tuple(entries))))
    assert failed(verdict_)[0] == 5
    assert verdict_.results[3].status == "ok"  # each entry is in the tree that was signed
