"""The review as one HTML file that prints well: no script, no reference to anything outside, every value escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from compliance.law.model import Party
from compliance.law.pack import Pack
from compliance.law.render import DRAFT
from compliance.law.review import Line, Outcome, SiteReview
from compliance.law.review_tags import e, identifier, listed, small, table
from compliance.law.review_terms import deadlines, kept, rules_said
from compliance.law.vocabulary import ARTIFACT_WORDS
from compliance.study import Study

# Tables have fixed columns, so a word is broken only if it is longer than its column; digests break anywhere.
_STYLE = """
body{font:11pt/1.45 serif;max-width:62em;margin:2em auto;padding:0 1em;color:#111;background:#fff;
overflow-wrap:break-word}
h1{font-size:1.5em}h2{font-size:1.2em;margin-top:1.6em}h3{font-size:1.05em;margin-bottom:.3em}
table{border-collapse:collapse;width:100%;margin:.6em 0;table-layout:fixed}
th,td{border:1px solid #777;padding:.25em .5em;text-align:left;vertical-align:top}th{background:#eee}
thead{display:table-header-group}tr{break-inside:avoid}p,li{orphans:2;widows:2}
.short{white-space:nowrap}.digest{overflow-wrap:anywhere}.small{font-size:.9em}ul{margin:.3em 0;padding-left:1.3em}
.item{padding-left:1em;text-indent:-1em}.told{break-after:avoid}
.deny td:first-child{border-left:.45em solid #111;font-weight:bold}.held td:first-child{border-left:.45em double #111}
.draft{border:2px solid #111;padding:.4em .7em;font-weight:bold}
.sign{margin-top:3em;border-top:1px solid #111;width:22em;padding-top:.2em;break-inside:avoid}
@media print{body{margin:0;padding:0;max-width:none;font-size:9.5pt}h2,h3{break-after:avoid}}
@page{margin:16mm;@bottom-right{content:counter(page) " of " counter(pages);font:8.5pt serif}}
"""
_MEANS = (
    "<p>ALLOW means: no adopted rule objects, and the papers that the rules ask for are listed in the study. It is"
    " no finding of lawfulness and no legal advice; that judgement is yours. HELD means: nothing objects to this"
    " holder, but the same thing would come to another who is denied it, so it goes to nobody. Persons are counted as"
    " if this study were the first that sends anything: what a site has sent before is in its own counters.</p>"
)
_HOW = {"recipient": "is sent it", "access": "can reach what it holds from here", "onward": "gets it later"}
_Row = tuple[Outcome, tuple[str, ...], tuple[str, ...], str]  # outcome, rules, who is denied, a word of the engine


def page(
    study: Study,
    digest: str,
    reviews: Sequence[SiteReview],
    packs: Iterable[Pack],
    under: str,
    at: str,
    *,
    adopted: bool,
) -> str:
    """`under` says which law was applied; `packs` are those that bind the reviewed sites.

    `adopted`: the packs are a site's own set; else all that could bind it.
    """
    packs = tuple(packs)
    body = [
        f"<h1>Study {e(study.name)}: what would leave, to whom, by which rules</h1>",
        _draft(packs),
        _facts(study, digest, under, at),
        _MEANS,
        *(_site(one, packs) for one in reviews),
        rules_said([line.rules for one in reviews for line in one.lines], packs),
        _papers(study),
        deadlines(packs, at[:10]),
        kept(list(dict.fromkeys(one.site.jurisdiction for one in reviews)), packs, at[:10], adopted=adopted),
        *(_pack(pack) for pack in packs),
        "<p class='sign'>Data-protection officer: name, date</p><p class='sign'>Signatory: name, date</p>",
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport"'
        ' content="width=device-width"><meta http-equiv="Content-Security-Policy" content="default-src \'none\';'
        f" style-src 'unsafe-inline'\"><title>Review of study {e(study.name)}</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(body)}</body></html>\n"
    )


def _draft(packs: Sequence[Pack]) -> str:
    drafts = [pack.id for pack in packs if pack.draft]
    if not drafts:
        return ""
    return f"<p class='draft'>{DRAFT}: no named counsel has reviewed {e(', '.join(drafts))}.</p>"


def _facts(study: Study, digest: str, under: str, at: str) -> str:
    rows = [
        ("Purpose", e(study.purpose)),
        ("Description", e(study.description)),
        ("Controllers", e(", ".join(study.controllers))),
        ("Data", e(", ".join(study.data_categories))),
        ("Operator", e(_place(study.operator.name, study.operator.jurisdiction, study.operator.access))),
        ("Term", f"{e(study.starts)} to {e(study.ends)}"),
        ("Digest", f"<span class='digest'>{e(digest)}</span>"),
        ("Law", f"<span class='digest'>{e(under)}</span>"),
        ("Decided as of", e(at)),
    ]
    cells = "".join(f"<tr><th class='short'>{name}</th><td>{value}</td></tr>" for name, value in rows)
    return f"<table><colgroup><col style='width:9em'><col></colgroup>{cells}</table>"


def _place(name: str, jurisdiction: str, access: Sequence[str]) -> str:
    reach = f", reachable from {', '.join(access)}" if access else ""
    return f"{name} in {jurisdiction}{reach}"


def _site(one: SiteReview, packs: Sequence[Pack]) -> str:
    terms = one.site
    counted = (f"{len(one.of('allow'))} allowed", f"{len(one.of('held'))} held", f"{len(one.of('deny'))} denied")
    return (
        f"<h2>{e(_place(terms.name, terms.jurisdiction, terms.access))}</h2>"
        f"<p class='told'>About {e(terms.records_public)} records or patients as declared, epsilon"
        f" {terms.epsilon_milli / 1000:g} for the whole study. Of {len(one.lines)} pairs of a thing and a holder:"
        f" {', '.join(counted)}.</p>{_lines(one.lines, packs)}{_missing(one.of('deny'))}"
    )


def _lines(lines: Sequence[Line], packs: Sequence[Pack]) -> str:
    """Equal outcome and rules share a row: first the things of each holder, then the holders of the same things."""
    in_packs = {rule.id for pack in packs for rule in pack.rules}
    things: dict[tuple[_Row, str], list[str]] = {}
    for line in lines:
        said = "" if line.decision.rule in in_packs else line.decision.plain
        row = (line.outcome, line.rules, tuple(map(_holder, line.held_by)), said)
        things.setdefault((row, f"{_holder(line.holder)}, {_HOW[line.via]}"), []).append(line.artifact)
    rows: dict[tuple[_Row, tuple[str, ...]], list[str]] = {}
    for (row, holder), artifacts in things.items():
        rows.setdefault((row, tuple(artifacts)), []).append(holder)
    order = {"deny": 0, "held": 1, "allow": 2}
    ranked = sorted(rows.items(), key=lambda found: order[found[0][0][0]])
    head = (("Outcome", "6.2em"), ("What", ""), ("Who comes to hold it", "25%"), ("By which rules", "23%"))
    return table(head, [_cells(row, what, who) for (row, what), who in ranked], [row[0] for (row, _), _ in ranked])


def _cells(row: _Row, artifacts: Sequence[str], holders: Sequence[str]) -> list[str]:
    outcome, rules, denied, said = row
    held = small(f"while denied: {', '.join(dict.fromkeys(denied))}") if outcome == "held" else ""
    return [
        f"<span class='short'>{outcome.upper()}</span>",
        listed(f"{e(_words(name))} <span class='small'>({e(name)})</span>" for name in artifacts),
        listed(map(e, holders)),
        listed([*map(identifier, rules), *filter(None, (held, small(said) if said else ""))]),
    ]


def _words(artifact: str) -> str:
    return {str(name): words for name, words in ARTIFACT_WORDS.items()}[artifact]


def _holder(party: Party) -> str:
    return f"{party.name} ({party.jurisdiction}){', a covered person' if party.covered_person else ''}"


def _missing(lines: Sequence[Line]) -> str:
    if not lines:
        return ""
    asked: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for line in lines:
        wanted = line.decision.missing or (line.decision.would_allow or "nothing makes this pass",)
        asked.setdefault(wanted, {}).setdefault(_holder(line.holder), []).append(line.artifact)
    rows = [
        [listed(map(e, wanted)), listed(e(f"{', '.join(what)} for {who}") for who, what in whom.items())]
        for wanted, whom in asked.items()
    ]
    return f"<h3>Missing</h3>{table((('What lacks', ''), ('For', '45%')), rows)}"


def _papers(study: Study) -> str:
    rows = [
        [
            *(identifier(d.kind), e(d.title), e(f"{d.from_jurisdiction} to {d.to_jurisdiction}, for {d.covers}")),
            f"<span class='short'>{e(d.expires)}</span>",
            f"<span class='small digest'>{e(d.sha256)}</span>",
        ]
        for d in study.documents
    ]
    head = (("Kind", "18%"), ("Title", ""), ("Covers", "14%"), ("Until", "7.5em"), ("SHA-256", "27%"))
    return f"<h2>Papers in the study</h2>{table(head, rows)}"


def _pack(pack: Pack) -> str:
    state = f"{DRAFT}" if pack.draft else f"reviewed by {pack.reviewer}"
    rows = "".join(f"<li>{e(text)}</li>" for text in pack.not_covered) or "<li>nothing is named</li>"
    note = f"<p>Binds: {e(pack.binds_note)}</p>" if pack.binds_note else ""
    return (
        f"<h2>{e(pack.id)}: {e(pack.title)}</h2><p>{e(state)}; version {pack.version},"
        f" verified {e(pack.verified_on)}, expires {e(pack.expires_on)}, digest"
        f" <span class='small digest'>{e(pack.digest)}</span></p>{note}"
        f"<h3>Not covered</h3><ul>{rows}</ul>"
    )
