"""Signed statements from the sites: judged, logged, and kept beside the study that they answer."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

from compliance.clock import now
from compliance.errors import Refused
from compliance.files import write_durably
from compliance.governance import AnswerReply, AnswerRequest
from compliance.log.store import LogStore
from compliance.statements import Judged, judge
from compliance.trust.home import OperatorHome
from compliance.trust.root import Anchor
from server.governance.proposals import Proposals

_MOST_OF_ONE_SITE: Final = 20  # statements on one study: advice, decision, and some corrections


class Answers:
    """Takes statements. `take` is durable when it returns, and taking the same statement again changes nothing."""

    def __init__(self, home: OperatorHome, proposals: Proposals) -> None:
        self._home, self._proposals = home, proposals
        self._lock = threading.Lock()

    def take(self, anchor: Anchor, log: LogStore, site: str, request: AnswerRequest) -> AnswerReply:
        """Keep a statement of `site`: first the operator's log, then the file.

        A crash between the two leaves an entry without its file; delivered again, it is logged again. Raises what
        `judge` raises, Refused RSD-6307 (not proposed to this site) or RSD-6308 (too many).
        """
        data = request.statement.encode("utf-8")
        judged = judge(anchor, data, "the statement", site, now())
        folder = self._folder(judged)
        file = folder / judged.file_name
        with self._lock:
            if file.exists():
                return AnswerReply(digest=judged.digest, fresh=False)
            held = len(list(folder.glob(f"{site}.*.json"))) if folder.is_dir() else 0
            if held >= _MOST_OF_ONE_SITE:
                raise _too_many(site, held)
            body = {"statement": judged.kind, "digest": judged.digest, "site": site, "study": judged.study}
            log.append("answer", body)  # of no study: the entries of a run are those of the run
            write_durably(file, data.rstrip(b"\n") + b"\n")
        return AnswerReply(digest=judged.digest, fresh=True)

    def _folder(self, judged: Judged) -> Path:
        if judged.kind == "leave":
            return self._home.root / "leaves"
        self._proposals.study(judged.site, judged.study)  # refuses a study that this site was not offered
        return self._home.study_folder(judged.study) / "answers"


def _too_many(site: str, found: int) -> Refused:
    return Refused(
        "RSD-6308",
        f"site {site} has delivered too many statements on one thing",
        rule="what a site can store at the operator is bounded",
        found=found,
        limit=_MOST_OF_ONE_SITE,
        next="tell the operator why the earlier ones do not hold",
    )
