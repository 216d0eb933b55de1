"""Spans of tagged words, and how many were found: numpy-free, no data of a site but a public or charged one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Span = tuple[str, int, int]  # kind, first word, word after the last


def spans_of(tags: Sequence[str]) -> set[Span]:
    """The spans in one sequence of IOB2 tags.

    `B-x` begins one; `I-x` goes on with a span of the same kind, and begins one where there is none, as conlleval does
    (Tjong Kim Sang and De Meulder 2003, CoNLL shared task); every other tag is outside.
    """
    out, kind, start = set(), "", 0
    for i, tag in enumerate([*tags, "O"]):
        mark, _, name = tag.partition("-")
        goes_on = mark == "I" and name == kind
        if kind and not goes_on:
            out.add((kind, start, i))
            kind = ""
        if name and mark in ("B", "I") and not goes_on:
            kind, start = name, i
    return out


def span_f1(pairs: Iterable[tuple[Sequence[str], Sequence[str]]]) -> dict[str, float]:
    """`span_precision`, `span_recall` and `span_f1` over all (true tags, predicted tags).

    A span counts if kind and both ends are right; a ratio without a denominator is 0.
    """
    right = said = there = 0
    for true, predicted in pairs:
        a, b = spans_of(true), spans_of(predicted)
        right, said, there = right + len(a & b), said + len(b), there + len(a)
    precision, recall = right / max(said, 1), right / max(there, 1)
    f1 = 2 * right / max(said + there, 1)
    return {"span_precision": precision, "span_recall": recall, "span_f1": f1}
