"""Logs: their health, their entries, and the proof that an entry is in."""

from __future__ import annotations

from collections import Counter

from compliance.desk.ask import PER_PAGE, Ask, File, Page, Pager, not_found
from compliance.desk.health import Seen
from compliance.desk.model import Desk
from compliance.desk.pages_study import TOP
from compliance.desk.sources import Log
from compliance.log import merkle
from compliance.log.kinds import KIND_OF
from compliance.release.tlog_proof import SUFFIX, TlogProof

_LOGS = (*TOP, ("Logs", "/logs"))


def logs(desk: Desk, ask: Ask) -> Page:
    """Every log with its size, its last checkpoint, and who cosigned it."""
    del ask
    last = {row["log"]: row["at"] for row in desk.books.all("SELECT log, max(last) AS at FROM kinds GROUP BY log")}
    flaws = [flaw for place in desk.places for flaw in place.flaws]
    return Page("logs.html", "Logs", "logs", {"last": last, "flaws": [*flaws, *desk.flaws]}, TOP)


def log_(desk: Desk, ask: Ask) -> Page:
    """One log: checkpoints, witnesses, kinds of entries, what has expired."""
    log = _log(desk, ask)
    kinds = desk.books.all(
        "SELECT kind, sum(number) AS number, min(first) AS first, max(last) AS last FROM kinds WHERE log = ?"
        " GROUP BY kind ORDER BY kind", (log.number,))  # fmt: skip
    place = next(p for p in desk.places if p.number == log.place)
    fields = {
        "log": log, "health": desk.health[log.number], "kinds": kinds, "place": place, "about": KIND_OF,
        "expired": sorted(Counter(log.view.expired.values()).items()),
        "alarms": [told for told in desk.alarms if told.log == log.number],
    }  # fmt: skip
    return Page("log.html", f"Log of {log.view.member}", "logs", fields, _LOGS)


def entries(desk: Desk, ask: Ask) -> Page:
    """The entries of one log, in order, of one kind if asked."""
    log, kind = _log(desk, ask), ask.text("kind")
    asked = (log.number, kind, kind)
    number = desk.books.one("SELECT sum(number) FROM kinds WHERE log = ? AND (? = '' OR kind = ?)", asked) or 0
    pager = Pager(ask.page(), number, f"/logs/{log.number}/entries", {"kind": kind})
    within = "INDEXED BY entry_kind WHERE log = ?1 AND kind = ?2" if kind else "WHERE log = ?1"
    question = f"SELECT * FROM entry {within} ORDER BY log, idx LIMIT ?3 OFFSET ?4"  # noqa: S608 - a text of ours
    rows = desk.books.all(question, (log.number, kind, PER_PAGE, pager.offset))
    kinds = [r["kind"] for r in desk.books.all("SELECT DISTINCT kind FROM kinds ORDER BY kind")]
    fields = {"log": log, "rows": rows, "pager": pager, "kind": kind, "kinds": kinds}
    return Page("entries.html", f"Entries of {log.view.member}", "logs", fields, _crumbs(log))


def entry(desk: Desk, ask: Ask) -> Page:
    """One entry, its leaf hash, and the proof that it is in the tree of the log as it is shown."""
    log, index = _log(desk, ask), ask.number("index")
    if index >= log.view.size:
        raise not_found("such entry")
    proof = merkle.inclusion_proof(log.subtrees, index, log.view.size)
    leaf = log.view.leaf_hashes[index]
    merkle.verify_inclusion(leaf, index, log.view.size, proof, log.root)
    return Page("entry.html", f"Entry {index} of {log.view.member}", "logs", {
        "log": log, "index": index, "leaf": leaf.hex(), "proof": [h.hex() for h in proof], "root": log.root.hex(),
        "entry": log.view.entries.get(index), "covered": _covered(desk, log, index), "about": KIND_OF,
        "expired": log.view.expired.get(index),
    }, _crumbs(log))  # fmt: skip


def proof(desk: Desk, ask: Ask) -> File:
    """The entry and its proof as one file for other people's tools (c2sp.org/tlog-proof)."""
    log, index = _log(desk, ask), ask.number("index")
    entry, seen = log.view.entries.get(index), _covered(desk, log, index)
    if entry is None or seen is None:
        raise not_found("proof of this entry")
    path = merkle.inclusion_proof(log.subtrees, index, seen.size)
    made = TlogProof(entry.encode(), index, path, seen.note)
    made.check_inclusion()
    return File("text/plain; charset=utf-8", made.encode(), f"{log.view.member}-{index}{SUFFIX}")


def _covered(desk: Desk, log: Log, index: int) -> Seen | None:
    """The smallest checkpoint over the entry that somebody else cosigned."""
    over = [s for s in desk.health[log.number].seen if s.size > index and s.cosigners]
    return min(over, key=lambda s: s.size, default=None)


def _log(desk: Desk, ask: Ask) -> Log:
    log = desk.logs.get(ask.number("log"))
    if log is None:
        raise not_found("such log")
    return log


def _crumbs(log: Log) -> tuple[tuple[str, str], ...]:
    return (*_LOGS, (log.view.member, f"/logs/{log.number}"))
