"""A dossier that was made before is made again to the byte: the derivation is part of the form.

Whoever changes a table on purpose makes a new schema, and keeps this file for the old one.
"""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

from compliance.clock import parse_time
from compliance.dossier import verify
from compliance.dossier.model import Dossier
from compliance.dossier.regime import load_regime
from compliance.dossier.verify import verify_dossier
from compliance.trust.root import load_anchor
from tests.dossiers import failed

GOLDEN = Path(__file__).parents[2] / "golden" / "dossier"
AT = parse_time("2026-11-23")


def test_a_kept_dossier_verifies() -> None:
    regime = load_regime((GOLDEN / "regime.yaml").read_bytes(), "regime.yaml")
    data, anchor = (GOLDEN / "dossier.json").read_bytes(), load_anchor(GOLDEN / "trust.json")
    with patch.object(verify, "builtin_regimes", lambda: {regime.id: regime}):
        assert failed(verify_dossier(data, anchor, AT)) == (0, "")
    assert failed(verify_dossier(data, anchor, AT))[0] == 2  # no reading of this package


def test_it_uses_every_kind_of_table() -> None:
    made = Dossier.model_validate_json((GOLDEN / "dossier.json").read_bytes())
    empty = [t.caption for a in made.articles for t in a.tables if not t.rows]
    assert empty == []
    assert [a.status for a in made.articles] == ["evidence shown"] * 4 + ["NOT COVERED"]
