"""Who plays in the demo. The rows are real; every jurisdiction, name and paper is invented, and the screen says so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

CONSORTIUM: Final = "thyroid-demo"
OPERATOR: Final = "coordinator"
OPERATOR_JURISDICTION: Final = "IE"


@dataclass(frozen=True)
class Site:
    """One hospital: it holds the rows of referral source `source` and declares `records` of them, a rounded count."""

    name: str
    source: str
    jurisdiction: str
    country: str
    records: int

    @property
    def weight(self) -> int:
        """The public weight of its updates: declared records in tens."""
        return max(1, self.records // 10)


SITES: Final = (
    Site("svi", "SVI", "DE", "Germany", 2400),
    Site("svhc", "SVHC", "GB", "United Kingdom", 960),
    Site("stmw", "STMW", "JP", "Japan", 260),
    Site("other", "other", "FR", "France", 1500),
    Site("svhd", "SVHD", "CN", "China", 70),
)
DENIED: Final = "svhd"
TRAINING: Final = tuple(s for s in SITES if s.name != DENIED)
INSIDER: Final = "other"
LEDGER_SITE: Final = "svhc"
STRICT_SITE: Final = "svi"


@dataclass(frozen=True)
class Folders:
    """Where everything of one demo lies below `out`."""

    out: Path

    @property
    def coordinator(self) -> Path:
        """The operator's home."""
        return self.out / OPERATOR

    @property
    def operator_key(self) -> Path:
        """The operator's private key."""
        return self.coordinator / "keys" / "operator.key"

    @property
    def trust(self) -> Path:
        """The trust file as it is handed to auditors, outside any bundle."""
        return self.out / "trust.json"

    @property
    def bundle(self) -> Path:
        """The released bundle."""
        return self.out / "bundle"

    @property
    def papers(self) -> Path:
        """The invented papers."""
        return self.out / "papers"

    @property
    def study(self) -> Path:
        """The signed main study."""
        return self.out / "study.json"

    @property
    def harness(self) -> Path:
        """What belongs to nobody's product: holdout, calibration rows, baselines, screens."""
        return self.out / "harness"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.out / "report.html"

    def home(self, site: str) -> Path:
        """The agent's home of a site."""
        return self.out / site

    def office(self, site: str) -> Path:
        """Where the site's signatory and data-protection officer keep their keys, apart from the agent."""
        return self.out / f"{site}-office"

    def table(self, site: str) -> Path:
        """The site's own extract."""
        return self.out / f"{site}-data" / "extract.csv"
