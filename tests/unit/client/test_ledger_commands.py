"""`agent ledger show` and `plan`: the whole ledger as JSON, tables and plots for people."""

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import session
from client.ledger_plot import Bar, svg_plot, text_plot
from tests.desk import ok, refused, run
from tests.federation import consortium, joined_home, main_study, open_home

AMOUNTS = st.integers(0, 20_000)
BARS = st.lists(
    st.builds(Bar, st.from_regex(r"[a-z0-9][a-z0-9-]{0,20}", fullmatch=True), AMOUNTS, AMOUNTS, AMOUNTS, AMOUNTS),
    max_size=4,
)


@pytest.fixture
def spent(tmp_path):
    """Site a after one round of the main study."""
    home = joined_home("a", tmp_path)
    with open_home(home) as site:
        session.answer(site, main_study().round())
    return home


def _show(home, *more):
    return ok("agent", "ledger", "show", "--home", home, *more)["sources"]


def test_before_the_first_study_there_is_nothing_and_nothing_is_made(tmp_path):
    home = consortium().copy_home("a", tmp_path)
    assert _show(home) == []
    assert run("agent", "ledger", "show", "--home", home).exit_code == 0
    assert not (home / "ledger.db").exists()


def test_show_tells_what_is_spent_reserved_and_left_and_every_study_and_entry(spent):
    (source,) = _show(spent)
    with open_home(spent) as site:
        balance = site.ledger.balance("a-clinic")
        entries = site.ledger.show("a-clinic")
    assert source["source"] == "a-clinic"
    assert source["epsilon_milli"] == balance.charged_milli > 0
    assert source["reserved_milli"] == balance.held_milli - balance.charged_milli > 0
    assert source["left_milli"] == source["limit_milli"] - balance.held_milli
    assert source["inverse_delta"] == 100_000
    assert source["entries"] == entries
    assert [e["kind"] for e in entries] == ["limit", "reserve", "charge"]
    assert [e["seq"] for e in entries] == [1, 2, 3]
    assert entries[-1]["head"] == source["head"]
    (study,) = source["studies"]
    assert (study["study"], study["unit"], study["state"]) == (main_study().digest, "record", "open")
    assert (study["claim_epsilon_milli"], study["attempts"]) == (8000, 1)
    assert study["charged"][0]["steps"] * 3 == study["events"][0]["steps"]


def test_a_damaged_ledger_is_told_in_the_words_of_a_reader(spent):
    (spent / "ledger.db").write_bytes((spent / "ledger.db").read_bytes()[:5000])
    (spent / "ledger.db-wal").unlink(missing_ok=True)
    error = refused(7, "RSD-4120", "agent", "ledger", "show", "--home", spent)
    assert "cannot be read" in error["message"]
    assert error["limit"] == "a whole ledger that this user may read and write"
    assert "restore the newest backup" in error["next"]


def test_people_see_tables_and_a_plot(spent):
    text = run("agent", "ledger", "show", "--home", spent).output
    (source,) = _show(spent)
    for number in ("epsilon_milli", "reserved_milli", "limit_milli", "left_milli"):
        assert f"{source[number] / 1000:.3f}" in text
    assert main_study().digest[:12] in text
    bar = next(line for line in text.splitlines() if "[" in line)
    assert bar.count("#") >= 1
    assert bar.count("=") >= 1
    assert bar.count(".") >= 1
    assert "# spent  = reserved  . left" in text


def test_the_plot_is_written_as_svg_and_never_over_a_file(spent, tmp_path):
    plot = tmp_path / "ledger.svg"
    assert ok("agent", "ledger", "show", "--home", spent, "--plot", plot)["plot"] == str(plot)
    root = ET.fromstring(plot.read_text())  # noqa: S314 - our own file
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "a-clinic" in "".join(root.itertext())
    refused(3, "RSD-2009", "agent", "ledger", "show", "--home", spent, "--plot", plot)
    shown = run("agent", "ledger", "show", "--home", spent, "--plot", tmp_path / "again.svg")
    assert shown.stdout.splitlines()[-1] == f"plot {tmp_path / 'again.svg'}"
    refused(3, "RSD-4123", "agent", "ledger", "show", "--home", spent, "--plot", tmp_path / "ledger.png")


def test_plan_tells_cost_and_what_would_remain_and_spends_nothing(tmp_path):
    home = consortium().copy_home("a", tmp_path)
    file, _ = main_study().write(tmp_path / "desk")
    plot = tmp_path / "plan.svg"
    told = ok("agent", "ledger", "plan", file, "--home", home, "--plot", plot)
    assert (told["source"], told["unit"], told["units"]) == ("a-clinic", "record", ["record", "patient"])
    assert (told["spent_milli"], told["held_milli"], told["limit_milli"]) == (0, 0, 8000)
    assert 0 < told["needed_milli"] == told["limit_milli"] - told["left_after_milli"]
    assert "this study: eps" in plot.read_text()
    text = run("agent", "ledger", "plan", file, "--home", home).output
    assert f"{told['left_after_milli'] / 1000:.3f}" in text
    assert "+ this study" in text
    with open_home(home) as site:
        session.answer(site, main_study().join())
        assert site.ledger.spent("a-clinic") == told["needed_milli"]


def test_a_joined_study_takes_nothing_more(spent, tmp_path):
    file, _ = main_study().write(tmp_path / "desk")
    told = ok("agent", "ledger", "plan", file, "--home", spent)
    assert (told["needed_milli"], told["left_after_milli"]) == (0, told["left_milli"])


def test_a_study_that_does_not_fit_is_refused_with_what_is_needed_and_left(tmp_path):
    home = joined_home("a", tmp_path)
    held = _show(home)[0]["held_milli"]
    other = consortium().sign_study(name="too-much", training={**main_study().value["training"], "steps": 200})
    value = [{**s, "noise_multiplier_micro": 1_800_000} for s in other.value["sites"]]
    other = consortium().sign_study(name="too-much", training=other.value["training"], sites=value)
    file, _ = other.write(tmp_path / "desk")
    error = refused(4, "RSD-4101", "agent", "ledger", "plan", file, "--home", home)
    assert error["found"].endswith("milli-eps needed")
    assert error["limit"] == f"{8000 - held} milli-eps left"
    assert _show(home)[0]["held_milli"] == held


# --- the plots ------------------------------------------------------------------------------------------------------


@given(BARS)
def test_a_bar_has_forty_cells_and_shows_whatever_was_taken(bars):
    lines = text_plot(bars)
    assert len(lines) == (len(bars) + 1 if bars else 0)
    for bar, line in zip(bars, lines, strict=False):
        cells = line[line.index("[") + 1 : line.index("]")]
        assert len(cells) == 40
        whole = max(bar.limit, sum(bar.parts), 1)
        for amount, mark in zip((*bar.parts, bar.left), "#=+.", strict=True):
            assert abs(cells.count(mark) - 40 * amount / whole) <= 4 or bar.limit == 0
            assert (mark in cells) == (amount > 0) or bar.limit == 0


@given(BARS)
def test_the_svg_is_well_formed_and_its_bars_are_in_proportion(bars):
    root = ET.fromstring(svg_plot(bars))  # noqa: S314 - our own file
    boxes = [r for r in root if r.tag.endswith("rect") and len(r)]
    amounts = [a for bar in bars for a in bar.parts if a]
    wholes = [max(bar.limit, sum(bar.parts)) for bar in bars for a in bar.parts if a]
    assert [float(b.get("width", 0)) for b in boxes] == pytest.approx(
        [420 * a / w for a, w in zip(amounts, wholes, strict=True)], abs=0.06
    )
