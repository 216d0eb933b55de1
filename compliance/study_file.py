"""The study file that an operator writes by hand: what it leaves out is filled in, and every mistake comes at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

from compliance.canonical import Json, parse_canonical, sha256_hex
from compliance.clock import now, rfc3339
from compliance.errors import InputError, Refused
from compliance.files import read_bytes
from compliance.identity import Envelope, media_type, parse_envelope
from compliance.privacy.events import MOST_NOISE_MICRO, PrivacyEvent
from compliance.software import BUNDLE_SHA256, VERSION
from compliance.study import SCHEMA, SiteTerms, Study, study_mistakes
from compliance.study_checks import check_mistakes
from compliance.study_event import also_done, study_event
from compliance.validation import Mistake, YamlFile, read_yaml, shown, try_model, with_values

_PLACEHOLDER = 1_000_000  # stands for a noise multiplier while the rest of the file is judged; never signed


@dataclass(frozen=True)
class Draft:
    """A raw study with what its file left out, and what could not be filled in. `open_noise`: sites without noise."""

    raw: Json
    mistakes: tuple[Mistake, ...] = ()
    open_noise: frozenset[int] = frozenset()


def read_study_file(path: Path) -> tuple[YamlFile, dict[str, Json]]:
    """A YAML study and its raw value. Raises InputError RSD-2005, RSD-2006 (not YAML), RSD-2007 (no mapping)."""
    file = read_yaml(path, "study")
    if not isinstance(file.value, dict):
        raise InputError(
            "RSD-2007",
            f"{path} holds no study",
            rule="schema of Study",
            found=type(file.value).__name__,
            limit="fields and values",
            next="start from the example: residency study init",
        )
    return file, file.value


def complete(raw: dict[str, Json], base_dir: Path) -> dict[str, Json]:
    """`raw` with digests of the papers, `software`, `issued`, unit and the noise of each site filled in where absent.

    `documents[].file` is relative to `base_dir` and is removed. The noise is the least whose PLD eps, over all rounds
    and spare rounds, is at most the site's epsilon_milli. Raises InputError RSD-2007 with every mistake.
    """
    mistakes, study = _judge(_draft(raw, base_dir))
    if study is None:
        raise mistakes_error(f"study in {base_dir}", mistakes)
    return study.as_json()


def check_file(path: Path) -> tuple[list[Mistake], Study | None]:
    """Every mistake of a study file (YAML, or `.json`: signed) with field and line; the completed study if none.

    The signature of a signed file is not judged here. Raises InputError RSD-2002, RSD-2005, RSD-2006 when the file
    cannot be read as what it should be.
    """
    if path.suffix == ".json":
        return _judge(Draft(signed_payload(path)))
    file, raw = read_study_file(path)
    mistakes, study = _judge(_draft(raw, path.parent))
    return file.located(mistakes), study


def signed_payload(path: Path) -> Json:
    """The unverified payload of a signed study. Raises InputError as `signed_envelope`."""
    return parse_canonical(signed_envelope(path).payload, str(path))


def signed_envelope(path: Path) -> Envelope:
    """A signed study, unverified. Raises InputError RSD-2002, RSD-2005 or RSD-2007 (another kind)."""
    envelope = parse_envelope(read_bytes(path, "study"), str(path))
    if envelope.payload_type != media_type(SCHEMA):
        raise InputError(
            "RSD-2007",
            f"{path} is no study",
            found=envelope.payload_type,
            limit=media_type(SCHEMA),
            next="give the file that residency study sign wrote",
        )
    return envelope


def mistakes_error(what: str, mistakes: list[Mistake]) -> InputError:
    """RSD-2007 that names the one mistake, or counts them when they are listed above it."""
    first = mistakes[0]
    shown = str(first) if len(mistakes) == 1 else f"{len(mistakes)} mistakes, first {first}"
    return InputError(
        "RSD-2007",
        f"{what}: {shown}",
        rule="schema of the file",
        found=first.found,
        limit=first.limit,
        next="correct the file, then check it again",
    )


def noise_for(study: Study, terms: SiteTerms) -> int:
    """The least noise multiplier (four digits, micro) with which `terms` keeps its epsilon_milli, evaluation included.

    The sampler's error counts, unless it alone would use up delta: such a study no site accepts (RSD-4003 there), but
    what it asks for can still be written down and refused. Raises Refused RSD-4004 (no noise is enough).
    """
    rounds, inverse_delta = study.charged_rounds, study.privacy.inverse_delta
    rate = study_event(study, terms, rounds).rate
    also = also_done(study)
    noise = _calibrated(terms.epsilon_milli, inverse_delta, rate, study.training.steps * rounds, also)
    while _epsilon(_with_noise(study, terms, noise), inverse_delta, also, terms.epsilon_milli) > terms.epsilon_milli:
        noise = _next_four_digits(noise)
        if noise > MOST_NOISE_MICRO:
            raise Refused(
                "RSD-4004",
                "no noise multiplier up to 100 meets this eps",
                found="more than the target at 100",
                limit=f"{terms.epsilon_milli} milli-eps",
                next="allow a larger eps, fewer steps or a smaller sampling rate",
            )
    return noise


@lru_cache(maxsize=256)
def _calibrated(
    epsilon_milli: int, inverse_delta: int, rate: Fraction, steps: int, also: tuple[PrivacyEvent, ...]
) -> int:
    from compliance.privacy.accounting import calibrate  # noqa: PLC0415 - heavy, only when noise is looked for

    return calibrate(epsilon_milli, inverse_delta, rate.numerator, rate.denominator, steps, also=also)


def _with_noise(study: Study, terms: SiteTerms, noise: int) -> PrivacyEvent:
    return study_event(study, terms.model_copy(update={"noise_multiplier_micro": noise}), study.charged_rounds)


def _next_four_digits(noise: int) -> int:
    unit = int(10 ** (len(str(noise)) - 4))
    return noise + unit


def _draft(raw: dict[str, Json], base_dir: Path) -> Draft:
    out: dict[str, Json] = {**raw}
    out.setdefault("software", {"version": VERSION, "bundle_sha256": BUNDLE_SHA256})
    out.setdefault("issued", rfc3339(now()))
    out.update(_with_unit(raw))
    mistakes: list[Mistake] = []
    if isinstance(raw.get("documents"), list):
        out["documents"] = [_document(d, i, base_dir, mistakes) for i, d in enumerate(raw["documents"])]
    missing: set[int] = set()
    if isinstance(raw.get("sites"), list):
        missing = {i for i, s in enumerate(raw["sites"]) if isinstance(s, dict) and "noise_multiplier_micro" not in s}
        out["sites"] = [_placed(s) if i in missing else s for i, s in enumerate(raw["sites"])]
    return Draft(out, tuple(mistakes), frozenset(missing))


def _with_unit(raw: dict[str, Json]) -> dict[str, Json]:
    """Whoever names the column of the person protects patients, unless the file says otherwise."""
    privacy = raw.get("privacy")
    if not isinstance(privacy, dict) or "unit" in privacy or privacy.get("group_column") is None:
        return {}
    return {"privacy": {"unit": "patient", **privacy}}


def _placed(site: dict[str, Json]) -> dict[str, Json]:
    return {**site, "noise_multiplier_micro": _PLACEHOLDER}


def _document(document: Json, i: int, base_dir: Path, mistakes: list[Mistake]) -> Json:
    if not isinstance(document, dict) or "file" not in document:
        return document
    rest = {k: v for k, v in document.items() if k != "file"}
    field, name = f"documents[{i}].file", document["file"]
    rest.setdefault("sha256", "0" * 64)  # judged together with the mistake below, never signed
    if not isinstance(name, str):
        mistakes.append(Mistake(field, f"must be a path (found {name!r})", found=shown(name), limit="a path"))
        return rest
    try:
        digest = sha256_hex(read_bytes(base_dir / name, "document"))
    except InputError as e:
        mistakes.append(Mistake(field, e.message, found=e.found, limit=e.limit))
        return rest
    if "sha256" in document and document["sha256"] != digest:
        text = f"the file has SHA-256 {digest}, the study says {document['sha256']}"
        mistakes.append(Mistake(field, text, found=digest, limit=shown(document["sha256"])))
    return {**rest, "sha256": digest}


def _judge(draft: Draft) -> tuple[list[Mistake], Study | None]:
    shape, study = try_model(Study, draft.raw)
    between = study_mistakes(draft.raw)
    # The model repeats the rules between fields as one mistake of the whole; here they have their fields.
    shape = [m for m in shape if not (between and m.field == "(top)")]
    found = [*draft.mistakes, *shape, *between, *check_mistakes(draft.raw)]
    mistakes = list(dict.fromkeys(with_values(found, draft.raw)))
    if mistakes or study is None:
        return mistakes, None
    return _with_all_noise(study, draft.open_noise)


def _with_all_noise(study: Study, open_noise: frozenset[int]) -> tuple[list[Mistake], Study | None]:
    mistakes: list[Mistake] = []
    sites: list[SiteTerms] = []
    for i, terms in enumerate(study.sites):
        if i not in open_noise:
            mistakes += [replace(m, field=f"sites[{i}].noise_multiplier_micro") for m in _claim_mistakes(study, terms)]
            sites.append(terms)
            continue
        try:
            noise = noise_for(study, terms)
        except Refused as e:
            text, limit = f"{e.message} (found {terms.epsilon_milli})", e.message
            mistakes.append(Mistake(f"sites[{i}].epsilon_milli", text, found=str(terms.epsilon_milli), limit=limit))
            continue
        sites.append(terms.model_copy(update={"noise_multiplier_micro": noise}))
    return mistakes, None if mistakes else study.model_copy(update={"sites": tuple(sites)})


def _claim_mistakes(study: Study, terms: SiteTerms) -> list[Mistake]:
    event = study_event(study, terms, study.charged_rounds)
    try:
        found = _epsilon(event, study.privacy.inverse_delta, also_done(study), terms.epsilon_milli)
    except Refused as e:
        text = f"{e.message} (found {terms.noise_multiplier_micro})"
        return [Mistake("", text, found=str(terms.noise_multiplier_micro), limit=e.message)]
    if found <= terms.epsilon_milli:
        return []
    message = f"{terms.noise_multiplier_micro} gives {found} milli-eps, above epsilon_milli {terms.epsilon_milli}"
    return [Mistake("", message, found=f"{found} milli-eps", limit=f"{terms.epsilon_milli} milli-eps")]


def _epsilon(event: PrivacyEvent, inverse_delta: int, also: tuple[PrivacyEvent, ...], limit_milli: int) -> int:
    """`epsilon_against` of all that is done, with the sampler's error unless it alone would use up delta."""
    from compliance.privacy.accounting import epsilon_against  # noqa: PLC0415 - heavy, only when a claim is checked

    try:
        return epsilon_against([event, *also], inverse_delta, limit_milli)
    except Refused as e:
        if e.code != "RSD-4003" or not event.tv_error_femto:
            raise
        without = [e.model_copy(update={"tv_error_femto": 0}) for e in (event, *also)]
        return epsilon_against(without, inverse_delta, limit_milli)
