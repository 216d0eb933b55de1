"""The operator's way to outside witnesses, over real sockets: what is asked, what is believed, what stops nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from compliance.canonical import canonical
from compliance.clock import now
from compliance.errors import InputError, Refused
from compliance.identity import new_signer
from compliance.log import cosign, note
from compliance.log.alarms import alarms_of
from compliance.log.store import LogStore
from compliance.log.witness import WitnessStore
from compliance.log.witness_home import WitnessHome, known_logs
from compliance.log.witness_protocol import SIZE_TYPE, Answer, WitnessPart, parse_request
from compliance.log.witness_server import WitnessDoor
from compliance.messages import CheckpointOffer, CosignedLine
from compliance.trust.witnesses import witness_keys
from server import outside_witnesses
from server.outside_witnesses import Came, OutsideWitnesses, Shown, install, parse_address
from server.witness_desk import WitnessDesk
from tests.witnesses import OPERATOR, WITNESS, Small, day, grow, small


@pytest.fixture
def made(tmp_path: Path) -> Small:
    return small(tmp_path)


@contextmanager
def door(answer: Callable[[bytes], Answer]) -> Iterator[str]:
    opened = WitnessDoor(("127.0.0.1", 0), answer, None)
    threading.Thread(target=opened.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"127.0.0.1:{opened.port}"
    finally:
        opened.shutdown()
        opened.server_close()


@contextmanager
def witness(made: Small, memory: str = "witness.db") -> Iterator[str]:
    """An honest witness in this process, with its memory in the file."""
    signer = WitnessHome(made.witness).signer()
    with WitnessStore(made.witness / memory, WITNESS, signer.private) as store:
        part = WitnessPart(store, known_logs([made.anchor], signer))
        with door(part.answer) as address:
            yield address


class Open:
    """Lets every log be shown to every witness, and remembers what it was asked; see test_witness_gate.py."""

    def __init__(self, *denied: str) -> None:
        self.denied, self.asked = denied, list[tuple[str, str]]()

    def check(self, witness: str, origin: str) -> None:
        self.asked.append((witness, origin))
        if origin in self.denied:
            raise Refused("RSD-5120", f"{origin} is withheld")


def outside(made: Small, *addresses: str, gate: Open | None = None) -> OutsideWitnesses:
    install(made.home(OPERATOR), [f"{WITNESS}={a}" for a in addresses], None)
    return OutsideWitnesses(made.home(OPERATOR), made.anchor.trust, gate or Open())


def shown(log: LogStore) -> Shown:
    size = log.size
    return Shown(log.origin, log.checkpoint(size), partial(log.consistency_proof, new=size))


def codes(came: Came) -> list[str]:
    return [e.code for _, e in came.errors]


def test_a_witness_is_asked_for_each_log_and_again_from_where_it_stands(made: Small) -> None:
    with witness(made) as address, made.log("a") as a, made.log(OPERATOR) as own:
        asked = outside(made, address)
        came = asked.ask([shown(a), shown(own)])
        assert [(x.origin, x.size, x.witness) for x in came.lines] == [(a.origin, 3, WITNESS), (own.origin, 3, WITNESS)]
        grow(a, 2)
        assert [x.size for x in asked.ask([shown(a)]).lines] == [5]
        grow(a)
        again = outside(made, address)  # the coordinator was restarted
        assert [x.size for x in again.ask([shown(a)]).lines] == [6]
        (made.home(OPERATOR) / "exchange" / "witnesses.json").unlink()
        grow(a)
        lost = outside(made, address).ask([shown(a)])  # the witness names its size, and is asked from there
        assert [x.size for x in lost.lines] == [7]
        assert (came.errors, lost.errors, lost.alarms) == ([], [], [])


def test_a_witness_that_forgot_is_an_alarm(made: Small) -> None:
    with made.log("a") as a:
        with witness(made) as address:
            port = int(address.rpartition(":")[2])
            outside(made, address).ask([shown(a)])
            grow(a)
            outside(made, address).ask([shown(a)])
        signer = WitnessHome(made.witness).signer()
        with WitnessStore(made.witness / "backup.db", WITNESS, signer.private) as store:
            store.cosign(a.checkpoint(3), a.public_key, 0, (), origin=a.origin)
            part = WitnessPart(store, known_logs([made.anchor], signer))
            opened = WitnessDoor(("127.0.0.1", port), part.answer, None)
            threading.Thread(target=opened.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
            grow(a)
            came = outside(made, address).ask([shown(a)])
            opened.shutdown()
            opened.server_close()
    assert [x.size for x in came.lines] == [5]
    (told,) = came.alarms
    assert (told.code, "3 entries" in told.found, "4 entries" in told.limit) == ("RSD-5104", True, True)


def _foreign(made: Small, data: bytes) -> Answer:
    """Cosigned with a key that the trust file does not name, under the witness's name."""
    text = note.parse(parse_request(data).note).text
    key = new_signer("witness", WITNESS, day(-1), day(1)).private
    return Answer(200, cosign.cosign(text, WITNESS, key, int(time.time())).line())


def _of_another_log(made: Small, data: bytes) -> Answer:
    text = note.parse(parse_request(data).note).text.replace("/a\n", "/b\n")
    key = WitnessHome(made.witness).signer().private
    return Answer(200, cosign.cosign(text, WITNESS, key, int(time.time())).line())


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (_foreign, "RSD-5103"),
        (_of_another_log, "RSD-5002"),
        (lambda *_: Answer(200, ""), "RSD-5103"),
        (lambda *_: Answer(200, "nonsense\n"), "RSD-5001"),
        (lambda *_: Answer(200, "x" * 200_000), "RSD-5102"),
        (lambda *_: Answer(404, "who?\n"), "RSD-5103"),
        (lambda *_: Answer(409, "1e9\n", SIZE_TYPE), "RSD-5103"),
        (lambda *_: Answer(409, "99\n", SIZE_TYPE), "RSD-5103"),
        (lambda *_: Answer(500, "\x1b[2J" * 100), "RSD-5103"),
    ],
    ids=["foreign-key", "another-log", "empty", "nonsense", "endless", "404", "no-size", "beyond", "500"],
)
def test_what_a_witness_says_wrong_is_not_believed_and_stops_nothing(
    made: Small, answer: Callable[[Small, bytes], Answer], code: str
) -> None:
    with ExitStack() as stack:
        bad = stack.enter_context(door(lambda data: answer(made, data)))
        good = stack.enter_context(witness(made))
        a = stack.enter_context(made.log("a"))
        came = outside(made, bad, good).ask([shown(a)])
    assert codes(came) == [code]
    assert [x.witness for x in came.lines] == [WITNESS]


def test_a_witness_that_is_away_is_left_alone_for_a_while(made: Small) -> None:
    clock = [0.0]
    with made.log("a") as a, made.log("b") as b:
        with witness(made) as address:
            pass  # gone again
        install(made.home(OPERATOR), [f"{WITNESS}={address}"], None)
        asked = OutsideWitnesses(made.home(OPERATOR), made.anchor.trust, Open(), lambda: clock[0])
        assert codes(asked.ask([shown(a), shown(b)])) == ["RSD-5102"]  # one try, not one a log
        assert codes(asked.ask([shown(a)])) == []
        assert codes(asked.ask([shown(a)], at_once=True)) == ["RSD-5102"]
        clock[0] = 61.0
        assert codes(asked.ask([shown(a)])) == ["RSD-5102"]


def test_a_witness_that_trickles_its_answer_holds_nobody_up(made: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside_witnesses, "LIMIT_S", 0.3)

    def slow(data: bytes) -> Answer:
        time.sleep(1.5)
        return Answer(200, f"{len(data)}")

    start = time.monotonic()
    with door(slow) as address, made.log("a") as a:
        assert codes(outside(made, address).ask([shown(a)])) == ["RSD-5102"]
        assert time.monotonic() - start < 1.4


def test_the_desk_keeps_the_lines_for_their_logs_and_tells_alarms(made: Small) -> None:
    trust = made.anchor.trust
    with ExitStack() as stack:
        own, a = (stack.enter_context(made.log(name)) for name in (OPERATOR, "a"))
        store = WitnessStore(
            made.home(OPERATOR) / "witness.db", trust.witness_name(OPERATOR), made.keys[OPERATOR].private
        )
        desk = WitnessDesk(made.anchor, own, stack.enter_context(store), "ab" * 32)
        offer = CheckpointOffer(origin=a.origin, note=a.checkpoint(), proofs={})
        desk.show("a", offer)
        desk.begin_turn()
        asked = outside(made, stack.enter_context(witness(made)))
        assert desk.ask_outside(asked) == []
        assert [x.witness for x in desk.lines_for("a")] == sorted([WITNESS, trust.witness_name(OPERATOR)])
        assert own.cosigned_sizes() == {WITNESS: 3}
        # A witness that says it saw more of two logs.
        ahead = stack.enter_context(door(lambda _: Answer(409, "99\n", SIZE_TYPE)))
        assert [e.code for _, e in desk.ask_outside(outside(made, ahead))] == ["RSD-5103"] * 2
        by = f", by {parse_address(ahead)}"
        told = [(t.code, t.about) for t in alarms_of(own)]
        assert told == [("RSD-5106", a.origin + by), ("RSD-5106", own.origin + by)]
        assert "unproved" in alarms_of(own)[0].found
        # A site that was restored.
        grow(a)
        proofs = {"3": tuple(h.hex() for h in a.consistency_proof(3, 4))}
        desk.show("a", CheckpointOffer(origin=a.origin, note=a.checkpoint(), proofs=proofs))
        assert getattr(desk.try_show("a", offer), "code", "") == "RSD-5041"
        assert [t.code for t in alarms_of(own)] == ["RSD-5106", "RSD-5106", "RSD-5041"]
        assert {e.study for e in own.entries(kind="alarm")} == {"ab" * 32}


def ahead(made: Small, site: str, folder: Path, *, forged: bool = False) -> CosignedLine:
    """What `site` cosigned of a copy of the operator's log that went on to 9 entries; `forged`: without its key."""
    with made.log(OPERATOR, "newer.db") as newer:
        grow(newer, 9)
        text = newer.checkpoint()
    name, key = made.anchor.trust.witness_name(site), made.keys[site].private
    line = cosign.cosign(note.parse(text).text, name, key, int(time.time()))
    value = line.value[:8] + bytes(64) if forged else line.value
    (folder / OPERATOR / "newer.db").unlink()
    shown = note.Signature(name, line.key_id, value).line()
    return CosignedLine(origin=newer.origin, size=9, witness=name, line=shown, note=text)


def test_who_lies_about_the_operators_log_neither_raises_an_alarm_nor_silences_one(made: Small, tmp_path: Path) -> None:
    with ExitStack() as stack:
        own = stack.enter_context(made.log(OPERATOR))
        path, key = made.home(OPERATOR) / "witness.db", made.keys[OPERATOR].private
        store = stack.enter_context(WitnessStore(path, made.anchor.trust.witness_name(OPERATOR), key))
        desk = WitnessDesk(made.anchor, own, store)
        true, forged = ahead(made, "b", tmp_path), ahead(made, "a", tmp_path, forged=True)
        lies = [forged, ahead(made, "a", tmp_path).model_copy(update={"size": 10**9})]
        lies += [forged.model_copy(update={"note": text}) for text in ("", note.sign("x\n", own.origin, key))]
        stranger = made.keys["a"].private
        lies.append(forged.model_copy(update={"note": note.sign(note.parse(true.note).text, own.origin, stranger)}))
        assert [e.code for e in (desk.try_take("a", lie) for lie in lies) if e] == [
            "RSD-5002", "RSD-8220", "RSD-5001", "RSD-5004", "RSD-5002",
        ]  # fmt: skip
        assert alarms_of(own) == ()
        for site in ("b", "c"):
            assert desk.try_take(site, ahead(made, site, tmp_path)) is not None  # nowhere to keep it
        assert [(t.code, t.about) for t in alarms_of(own)] == [
            ("RSD-5106", f"{own.origin}, by {site}") for site in ("b", "c")
        ]


def test_both_keys_of_a_witness_count_while_they_overlap(made: Small) -> None:
    old = WitnessHome(made.witness).signer()
    made.write_trust(old, new_signer("witness", WITNESS, day(-1), day(600)))
    with witness(made) as address, made.log("a") as a:
        came = outside(made, address).ask([shown(a)])
        (line,) = came.lines
        keys = witness_keys(made.anchor.trust, "a", now())
        assert len(keys[WITNESS]) == 2
        a.add_cosignature(line.size, line.line, keys)
        assert list(cosign.cosigners(note.parse(a.cosigned_checkpoints()[0]), keys)) == [WITNESS]
    assert came.errors == []


@pytest.mark.parametrize("text", ["[]", '{"x":[]}', '{"x":{"y":-1}}', '{"x":{"y":"1"}}'])
def test_a_memory_of_another_form_is_an_error_that_names_the_file(made: Small, text: str) -> None:
    file = made.home(OPERATOR) / "exchange" / "witnesses.json"
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(InputError, match=r"RSD-5118 .*witnesses\.json"):
        outside(made)


def test_a_member_whose_log_stands_still_in_a_run_is_an_alarm_once(made: Small) -> None:
    trust = made.anchor.trust
    with ExitStack() as stack:
        own, a = (stack.enter_context(made.log(name)) for name in (OPERATOR, "a"))
        path, key = made.home(OPERATOR) / "witness.db", made.keys[OPERATOR].private
        store = stack.enter_context(WitnessStore(path, trust.witness_name(OPERATOR), key))
        desk = WitnessDesk(made.anchor, own, store)
        desk.show("a", CheckpointOffer(origin=a.origin, note=a.checkpoint(), proofs={}))
        long_ago, limit = now() - timedelta(days=9), timedelta(hours=24)
        desk.tell_silence(["a", "b"], now(), limit)  # the run began just now
        assert alarms_of(own) == ()
        for _ in range(2):
            desk.tell_silence(["a", "b"], long_ago, limit)
        assert [(t.code, t.about) for t in alarms_of(own)] == [("RSD-5107", trust.log_origin("b"))]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("127.0.0.1:9650", "http://127.0.0.1:9650"),
        ("witness.org:443", "https://witness.org:443"),
        ("https://witness.org/w1/", "https://witness.org:443/w1"),
        ("http://localhost:80", "http://localhost:80"),
        ("[::1]:9650", "http://[::1]:9650"),
        ("https://[2001:db8::1]/w", "https://[2001:db8::1]:443/w"),
    ],
)
def test_addresses_are_read(text: str, found: str) -> None:
    assert str(parse_address(text)) == found
    assert parse_address(found) == parse_address(text)  # as it stands in witnesses.json


@pytest.mark.parametrize(
    "text",
    [
        "",
        "http://witness.org",
        "ftp://witness.org",
        "witness.org:99999",
        "witness.org:0",
        "https://u:p@w.org",
        "https://w.org/?q",
        "///x",
    ],
)
def test_what_is_no_address_is_refused(made: Small, text: str) -> None:
    with pytest.raises(InputError) as wrong:
        install(made.home(OPERATOR), [f"{WITNESS}={text}"], None)
    assert wrong.value.code == "RSD-5116"
    assert not (made.home(OPERATOR) / "witnesses.json").exists()


@pytest.mark.parametrize("text", ["w.org:443", "=w.org:443", "Union=w.org:443", "https://w.org/a=b", "a b=w.org"])
def test_an_address_without_its_witness_is_refused(made: Small, text: str) -> None:
    with pytest.raises(InputError, match=r"RSD-5116 .*--witness NAME=HOST:PORT"):
        install(made.home(OPERATOR), [text], None)
    (made.home(OPERATOR) / "witnesses.json").write_bytes(canonical({"addresses": [text], "ca": ""}))
    with pytest.raises(InputError, match="RSD-5116"):  # of a server that was started before this was asked for
        OutsideWitnesses(made.home(OPERATOR), made.anchor.trust, Open())


def test_what_the_gate_denies_is_not_sent_and_told_once(made: Small) -> None:
    arrived: list[bytes] = []

    def count(data: bytes) -> Answer:
        arrived.append(data)
        return Answer(500, "")

    with ExitStack() as stack:
        a, own = (stack.enter_context(made.log(name)) for name in ("a", OPERATOR))
        gate = Open(a.origin, own.origin)
        asked = outside(made, stack.enter_context(door(count)), gate=gate)
        first, again = asked.ask([shown(a), shown(own)]), asked.ask([shown(a), shown(own)], at_once=True)
        assert (codes(first), codes(again), first.asked) == (["RSD-5120"] * 2, [], False)
        assert gate.asked == [(WITNESS, a.origin), (WITNESS, own.origin)] * 2
        assert arrived == []
        gate.denied = (a.origin,)
        assert codes(asked.ask([shown(a), shown(own)])) == ["RSD-5103"]
    (only,) = arrived
    assert note.parse(parse_request(only).note).text.startswith(own.origin + "\n")


def test_another_witness_than_the_one_that_was_decided_on_is_not_believed(made: Small, tmp_path: Path) -> None:
    other = WitnessHome.make(tmp_path / "w2", "second-union", 300).signer()
    made.write_trust(WitnessHome(made.witness).signer(), other)

    def by_other(data: bytes) -> Answer:
        text = note.parse(parse_request(data).note).text
        return Answer(200, cosign.cosign(text, "second-union", other.private, int(time.time())).line())

    with door(by_other) as address, made.log("a") as a:
        came = outside(made, address).ask([shown(a)])
    assert (codes(came), came.lines, came.errors[0][1].found) == (["RSD-5103"], [], "second-union")


def test_one_address_is_of_one_witness(made: Small) -> None:
    text = ["one=w.org:443", "two=https://w.org/"]
    with pytest.raises(InputError, match=r"RSD-5116 .*one and two") as wrong:
        install(made.home(OPERATOR), text, None)
    assert "NAME=HOST:PORT" in wrong.value.next
    (made.home(OPERATOR) / "witnesses.json").write_bytes(canonical({"addresses": text, "ca": ""}))
    with pytest.raises(InputError, match="RSD-5116"):
        OutsideWitnesses(made.home(OPERATOR), made.anchor.trust, Open())
    install(made.home(OPERATOR), ["one=w.org:443", "one=w.org:444", "two=w.org/2"], None)
    assert len(outside_witnesses.configured(made.home(OPERATOR)).named()) == 3


def test_each_start_says_anew_which_witnesses_there_are(made: Small) -> None:
    assert outside(made, "w.org:1", "w.org:1")
    assert outside_witnesses.configured(made.home(OPERATOR)).addresses == (f"{WITNESS}=https://w.org:1",)
    assert not outside(made)
