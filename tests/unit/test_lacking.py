"""What a machine lacks: skipped at a person's, failed in CI."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lacking import WHOLE, need


@pytest.mark.parametrize("absent", ["/nowhere/browser", "no-such-program"])
def test_what_is_not_there_skips_a_test_and_fails_in_ci(absent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WHOLE, raising=False)
    with pytest.raises(pytest.skip.Exception, match=absent):
        need("sh", "/", absent)
    monkeypatch.setenv(WHOLE, "1")
    with pytest.raises(pytest.fail.Exception, match=absent):
        need(absent)
    need("sh", "/")


def test_ci_leaves_nothing_out() -> None:
    run = (Path(__file__).parents[2] / ".ci" / "run").read_text("utf-8")
    assert f"\n{WHOLE}=1 make test\n" in run
