"""The overview, one study, and the search."""

from __future__ import annotations

from compliance.desk.ask import PER_PAGE, Ask, Page, Pager, not_found
from compliance.desk.books import Row
from compliance.desk.model import Desk
from compliance.desk.sources import Place
from compliance.errors import ResidencyError
from compliance.identity import parse_envelope

TOP = (("Overview", "/"),)
_MOST_HITS = 2000
_HITS = "SELECT DISTINCT log, idx FROM occurs WHERE term IN (SELECT id FROM term WHERE word >= ? AND word < ?) LIMIT ?"
_BY_MEMBER = "SELECT exporter, sum(allowed) AS allowed, sum(denied) AS denied FROM flow GROUP BY exporter"


def overview(desk: Desk, ask: Ask) -> Page:
    """Places with their verdicts, studies, members, alarms, the last denials."""
    del ask
    denials = desk.books.all("SELECT * FROM decision WHERE allow = 0 ORDER BY at DESC, log, idx LIMIT 5")
    counted = {row["study"]: row for row in desk.books.all(
        "SELECT study, sum(allowed) AS allowed, sum(denied) AS denied FROM flow GROUP BY study")}  # fmt: skip
    return Page("overview.html", "Overview", "overview", {
        "members": _members(desk), "denials": denials, "alarms": desk.alarms[:20], "counted": counted,
        "flaws": [*(f for p in desk.places for f in p.flaws), *desk.flaws],
    })  # fmt: skip


def _members(desk: Desk) -> list[dict[str, object]]:
    """Each member of the consortium with the largest of its logs that is shown, and what it decided."""
    trust = desk.anchor.trust
    counted = {row["exporter"]: row for row in desk.books.all(_BY_MEMBER)}
    last = {row["log"]: row["at"] for row in desk.books.all("SELECT log, max(last) AS at FROM kinds GROUP BY log")}
    found: list[dict[str, object]] = []
    for member in (trust.operator, *trust.sites):
        own = [log for log in desk.logs.values() if log.view.member == member.name]
        log = max(own, key=lambda log: (log.view.size, -log.number), default=None)
        found.append({
            "member": member, "role": "operator" if member == trust.operator else "site", "log": log,
            "health": desk.health[log.number] if log else None, "counted": counted.get(member.name),
            "last": last.get(log.number) if log else None,
        })  # fmt: skip
    return found


def study(desk: Desk, ask: Ask) -> Page:
    """Parameters, sites, answers, papers; how many entries of each kind the logs hold about it."""
    facts = desk.studies.get(str(ask.path["digest"]))
    if facts is None:
        raise not_found("such study")
    kinds = desk.books.all(
        "SELECT kind, sum(once) AS number, min(first) AS first, max(last) AS last FROM kinds WHERE study = ?"
        " GROUP BY kind ORDER BY kind", (facts.digest,))  # fmt: skip
    return Page("study.html", f"Study {facts.name}", "overview", {
        "facts": facts, "kinds": kinds, "answers": _answers(facts.place) if facts.place else [],
        "spent": {curve.site: curve for curve in desk.curves.get(facts.digest, ())},
    }, TOP)  # fmt: skip


def _answers(place: Place) -> list[dict[str, object]]:
    """The signed answers beside the study, as they say of themselves; `verify` judges them."""
    found: list[dict[str, object]] = []
    for name, data in place.contents.under("answers").items() if place.contents else ():
        site, kind = f"{name}.".split(".")[:2]
        try:
            said = parse_envelope(data, name)
        except ResidencyError as e:
            found.append({"site": site, "kind": kind, "digest": "", "error": e})
        else:
            found.append({"site": site, "kind": kind, "digest": said.digest, "error": None})
    return found


def search(desk: Desk, ask: Ask) -> Page:
    """Entries in which a word begins like this: a hash, an id, a rule, a name, a kind, a day."""
    asked, page = ask.text("q"), ask.page()
    word, found, number = asked.lower(), list[Row](), 0
    if len(word) >= 2:
        words = (word, f"{word}\U0010ffff", _MOST_HITS)
        number = desk.books.one(f"SELECT count(*) FROM ({_HITS})", words)  # noqa: S608 - a text of ours
        shown = f"SELECT entry.* FROM ({_HITS}) JOIN entry USING (log, idx) ORDER BY log, idx LIMIT ? OFFSET ?"  # noqa: S608
        found = desk.books.all(shown, (*words, PER_PAGE, (page - 1) * PER_PAGE))
    pager = Pager(page, number, "/search", {"q": asked})
    return Page("search.html", "Search", "search", {
        "q": asked, "rows": found, "pager": pager, "cut": number == _MOST_HITS,
    }, TOP)  # fmt: skip
