"""Step 15: the evaluation's record is complete and logged, its counts are signed by the sites, its figures follow."""

from __future__ import annotations

from compliance.canonical import parse_canonical, sha256_hex
from compliance.clock import parse_time
from compliance.errors import CheckFailed
from compliance.evaluation.derive import TOLERANCE_MICRO, Figure
from compliance.evaluation.histogram import SCHEMA as HISTOGRAM
from compliance.evaluation.histogram import Histogram
from compliance.evaluation.record import FILE, FOLDER, SCHEMA, EvaluationRecord, EvaluationRow, derived
from compliance.log.entry import Entry
from compliance.release import bodies
from compliance.release.case import Contents, Context, Logged
from compliance.release.model_files import released_mean, snapshot
from compliance.release.report import Found
from compliance.release.verify_records import ROSTER_TOLERANCE
from compliance.study import covers
from compliance.study_event import EVALUATION_ROUND
from compliance.validation import load_model

_KINDS = ("charge", "evaluation", "decision", "transfer")


def evaluation(contents: Contents, context: Context) -> Found:
    """What the bundle says of the model's quality: signed by the operator, covered by the sites' logs, recomputed."""
    study, found = contents.study, contents.evaluation
    _only_counts(contents, context.anchor.trust.operator.name)
    if study.evaluation is None:
        if found is not None or contents.under(FOLDER):
            raise _false("the study asks for no evaluation, and one is shown", FILE, "no evaluation")
        return Found(("the study asks for no evaluation, and no shown log records one",))
    if found is None:
        raise _false("the study asks for an evaluation, and its record is missing", "no file", FILE)
    record, operator = found[0], context.anchor.trust.operator.name
    _signed(contents, context, record)
    _of_the_model(contents, record)
    _sent_the_model(contents, operator, record)
    given = [row for row in record.rows if row.outcome == "contributed"]
    covering = [_covering(contents, context, record, row) for row in given]
    _not_earlier(contents, record, [entries["transfer"] for entries in covering])
    logged = [entries["evaluation"] for entries in covering]
    told = [text for row in record.rows for text in _left_out(contents, record, row)]
    asserted = tuple((operator, text) for text in told)
    if record.figures is None:
        return Found(_unpublished(contents, record), asserted)
    pairs = zip(given, logged, strict=True)
    histograms = [_counts(contents, context, record, row, entry) for row, entry in pairs]
    proved = _figures(contents, record, record.figures, histograms)
    text = "that its noised counts are of its own records and of this model's scores"
    return Found(proved, (*asserted, *((site, text) for site in record.contributed)))


def _only_counts(contents: Contents, operator: str) -> None:
    """What left a site as a metric is what it logged as its counts, which need a study with an evaluation."""
    for site, log in contents.logs.items():
        if site == operator:
            continue
        counts = {b.digest: e.index for e, b in contents.bodies(site, "evaluation", bodies.EvaluationBody)}
        for entry, body in contents.bodies(site, "transfer", bodies.TransferBody):
            if body.artifact == bodies.METRIC and counts.get(body.sha256, entry.index) >= entry.index:
                raise _false(
                    f"{log.where(entry)} sends a metric that it did not log before", body.sha256[:16], "counts"
                )
        if counts and contents.study.evaluation is None:
            message = f"log {log.evidence.origin} records an evaluation that the study does not ask for"
            raise _false(message, len(counts), "no evaluation")


def _signed(contents: Contents, context: Context, record: EvaluationRecord) -> None:
    """By the operator, who logged it and no other, with a key valid then; of this study and run; all sites have a row.

    A second record in the operator's log is one that could be shown to somebody else.
    """
    operator, at = context.anchor.trust.operator.name, parse_time(record.at, f"at of {FILE}")
    data, study = contents.file(FILE), contents.study
    digest = context.anchor.statement(data, SCHEMA, FILE, role="operator", holder=operator, at=at).digest
    logged = contents.bodies(operator, "evaluation", bodies.EvaluationRecordBody)
    for what, found, limit in (
        ("study", record.study, contents.study_digest),
        ("run", record.run, contents.manifest.run),
        ("term", covers(study, record.at), True),
        (
            "sites",
            sorted((r.site, r.jurisdiction) for r in record.rows),
            sorted((s.name, s.jurisdiction) for s in study.sites),
        ),
        ("entry in the operator's log", [b.digest for _, b in logged], [digest]),
        ("model in the operator's log", [b.model_sha256 for _, b in logged], [record.model_sha256]),
    ):
        if found != limit:
            raise _false(f"{FILE}: the {what} is not right", found, limit)
    entry = logged[0][0]
    if at > parse_time(entry.at):
        raise _false(f"{FILE} is dated later than {operator} logged it", record.at, entry.at)
    if not context.anchor.signers(contents.envelope(FILE), "operator", operator, parse_time(entry.at)):
        raise _false(
            f"{FILE} is signed with a key that was not valid when it was logged", entry.at, "a key in its period"
        )


def _not_earlier(contents: Contents, record: EvaluationRecord, transfers: list[Entry]) -> None:
    """Not before the last round was over, nor before what is in it was sent; clocks may differ a little.

    With an earlier date every site could be called late.
    """
    at, last = parse_time(record.at), contents.rosters[-1]
    if at < parse_time(last.roster.at):
        raise _false(f"{FILE} is dated earlier than {last.path}", record.at, last.roster.at)
    sent = max((e.at for e in transfers), key=parse_time, default=record.at)
    if at < parse_time(sent) - ROSTER_TOLERANCE:
        raise _false(f"{FILE} is dated earlier than counts in it were sent", record.at, sent)


def _of_the_model(contents: Contents, record: EvaluationRecord) -> None:
    last = contents.rosters[-contents.study.aggregation.average_last_rounds :]
    paths = [f"snapshots/round-{r.roster.round:03d}.f32" for r in last]
    flat = released_mean([snapshot(contents.file(p), contents.layout, p) for p in paths])
    if record.model_sha256 != sha256_hex(flat.tobytes()):
        message = f"{FILE} is of another model than the released one"
        raise _false(message, record.model_sha256[:16], sha256_hex(flat.tobytes())[:16])


def _sent_the_model(contents: Contents, operator: str, record: EvaluationRecord) -> None:
    """The operator sent the model to all recipients, who are recipients of the last round; only they contributed."""
    after = contents.study.training.rounds + 1
    sent = {
        b.recipient
        for _, b in contents.bodies(operator, "transfer", bodies.TransferBody)
        if (b.artifact, b.round, b.sha256) == (bodies.AGGREGATE, after, record.model_sha256)
    }
    unsent = set(record.recipients) - sent or set(record.contributed) - set(record.recipients)
    strangers = set(record.recipients) - set(contents.rosters[-1].roster.recipients)
    if unsent or strangers:
        message = f"{FILE}: the log of {operator} does not say that just its recipients were sent the model"
        raise _false(message, sorted(unsent | strangers), sorted(sent))


def _counts(
    contents: Contents, context: Context, record: EvaluationRecord, row: EvaluationRow, logged: Entry
) -> Histogram:
    """A site's published counts: signed by its agent, with the terms of the study, about the released model."""
    path = f"{FOLDER}/{row.site}.json"
    envelope = contents.envelope(path)
    histogram = load_model(Histogram, parse_canonical(envelope.payload, path), "RSD-9041", path)
    if envelope.digest != row.histogram_sha256:
        raise _false(f"{path} is not what {FILE} names", envelope.digest[:16], str(row.histogram_sha256)[:16])
    differ = histogram.differences(contents.study, contents.study_digest, row.site, record.model_sha256)
    for what, found, limit in differ:
        raise _false(f"{path}: the {what} is not the study's", found, limit)
    for moment in (histogram.at, logged.at):  # a key that was revoked since could sign with a past date
        at = parse_time(moment, f"at of {path}")
        context.anchor.statement(contents.file(path), HISTOGRAM, path, role="agent", holder=row.site, at=at)
    return histogram


def _covering(contents: Contents, context: Context, record: EvaluationRecord, row: EvaluationRow) -> dict[str, Entry]:
    """The entries that the row names, in the order of the log and about the same histogram and model."""
    log, where = contents.log(row.site), f"{FILE}, {row.site}"
    entries: dict[str, Entry] = {}
    for kind in _KINDS:
        ref = getattr(row, kind)
        entry = log.entries.get(ref.index)
        if (
            ref.origin != log.evidence.origin
            or entry is None
            or entry.kind != kind
            or entry.leaf_hash().hex() != ref.leaf
        ):
            raise _false(f"{where}: its {kind} is something else", f"entry {ref.index}", f"a {kind} of this study")
        entries[kind] = entry
    order = [entries[k].index for k in _KINDS]
    if order != sorted(order) or any(e.study != contents.study_digest for e in entries.values()):
        raise _false(f"{where}: not charged, counted, decided and sent in this order", order, sorted(order))
    _same(contents, context, record, row, log, entries)
    return entries


def _same(
    contents: Contents,
    context: Context,
    record: EvaluationRecord,
    row: EvaluationRow,
    log: Logged,
    entries: dict[str, Entry],
) -> None:
    charge = bodies.read_body(bodies.ChargeBody, entries["charge"], log.where(entries["charge"]))
    counted = bodies.read_body(bodies.EvaluationBody, entries["evaluation"], log.where(entries["evaluation"]))
    sent = bodies.read_body(bodies.TransferBody, entries["transfer"], log.where(entries["transfer"]))
    decision = bodies.read_decision(entries["decision"], log.where(entries["decision"]))
    told = {p.name for p in decision.decision.transfer.onward}
    others = [b for _, b in contents.bodies(row.site, "evaluation", bodies.EvaluationBody)]
    for what, found, limit in (
        ("round of the charge", charge.round, EVALUATION_ROUND),
        ("model of the charge", charge.base_sha256, record.model_sha256),
        ("model of the count", counted.model_sha256, record.model_sha256),
        ("digest of the count", counted.digest, row.histogram_sha256),
        ("number of counts in its log", len(others), 1),
        ("checks of the noise", sorted(n for n, passed in counted.conformance.items() if not passed), []),
        ("whether the noise was checked", bool(counted.conformance), True),
        ("artifact of the transfer", sent.artifact, bodies.METRIC),
        ("digest of the transfer", sent.sha256, row.histogram_sha256),
        ("decision of the transfer", sent.decision, entries["decision"].index),
        ("recipient of the transfer", sent.recipient, context.anchor.trust.operator.name),
        ("recipients not told of in its decision", set(record.recipients) - {row.site} - told, set()),
    ):
        if found != limit:
            raise _false(f"{FILE}, {row.site}: the {what} differs", found, limit)


def _left_out(contents: Contents, record: EvaluationRecord, row: EvaluationRow) -> list[str]:
    """What is said of a site whose log shows counts that are not in the sum, and whether its log shows the same.

    That they are left out rests on the operator's word: neither a lost reply nor an answer of a broken site stands in a
    log, and one site must not be able to spoil the release.
    """
    if row.outcome == "contributed" or row.site not in contents.logs:
        return []
    code, log = row.reason.code if row.reason else "", contents.logs[row.site]
    told = []
    for entry, _ in contents.bodies(row.site, "evaluation", bodies.EvaluationBody):
        counts = f"that the counts of {row.site} ({log.where(entry)}, {entry.at})"
        if _says_so(contents, row.site, code, entry):
            told.append(f"{counts} are left out after {code}, which its log shows")
        elif row.outcome == "late" and parse_time(entry.at) > parse_time(record.at):
            told.append(f"{counts} came too late, after the record's date")
        elif not _sent(contents, row.site):
            told.append(f"{counts} are left out ({row.outcome}, {code}); its log does not show that it sent them")
        else:
            told.append(
                f"{counts} did not arrive whole and in time ({row.outcome}, {code}): its log shows them as sent"
            )
    return told


def _says_so(contents: Contents, site: str, code: str, counted: Entry) -> bool:
    """The site's own log holds that refusal or failure after its counts; a failure, of the evaluation."""
    own = contents.log(site).of(contents.study_digest, "refusal", "failure")
    of_it = [e for e in own if e.kind == "refusal" or e.body.get("round") == EVALUATION_ROUND]
    return any(e.index > counted.index and e.body.get("code") == code for e in of_it)


def _sent(contents: Contents, site: str) -> bool:
    return any(b.artifact == bodies.METRIC for _, b in contents.bodies(site, "transfer", bodies.TransferBody))


def _unpublished(contents: Contents, record: EvaluationRecord) -> tuple[str]:
    """Below the quorum there are no figures and no counts."""
    quorum, given, shown = contents.study.quorum.sites, len(record.contributed), contents.under(FOLDER)
    if given >= quorum or shown:
        raise _false(f"{FILE} publishes nothing, and should, or shows counts", given, f"below {quorum}, and no counts")
    return (f"no evaluation is published: {given} sites took part, the study asks for {quorum}",)


def _figures(
    contents: Contents, record: EvaluationRecord, claimed: tuple[Figure, ...], histograms: list[Histogram]
) -> tuple[str]:
    """Derived again from the signed counts of exactly the sites in the sum."""
    shown = set(contents.under(FOLDER))
    if shown != {f"{site}.json" for site in record.contributed}:
        raise _false("other counts are shown than those in the sum", sorted(shown), sorted(record.contributed))
    again = derived(contents.study, histograms) or ()
    if len(again) != len(claimed) or not all(_close(a, b) for a, b in zip(again, claimed, strict=True)):
        raise _false(f"{FILE}: the figures do not follow from the signed counts", _told(claimed), _told(again))
    what = f"the evaluation is of the released model; its {len(claimed)} figures and intervals follow from the noised"
    return (f"{what} counts that {len(histograms)} sites signed, each charged once",)


def _close(a: Figure, b: Figure) -> bool:
    pairs = ((a.value_micro, b.value_micro), (a.low_micro, b.low_micro), (a.high_micro, b.high_micro))
    near = all((x is None) == (y is None) and abs((x or 0) - (y or 0)) <= TOLERANCE_MICRO for x, y in pairs)
    return (a.name, a.label) == (b.name, b.label) and near


def _told(figures: tuple[Figure, ...]) -> str:
    return ", ".join(f"{f.name} {f.label} {f.value_micro}" for f in figures[:4])


def _false(message: str, found: object, limit: object) -> CheckFailed:
    rule = "one charged evaluation; figures follow from what the sites signed"
    return CheckFailed("RSD-9015", message, rule=rule, found=found, limit=limit)
