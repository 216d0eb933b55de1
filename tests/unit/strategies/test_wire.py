from unittest.mock import patch

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from compliance.canonical import canonical
from compliance.error_reply import decode_error, encode_error
from compliance.errors import InputError, InternalBug, PeerUnreachable, Refused, ResidencyError, RunFailed, error_class
from strategies import wire
from strategies.wire import Reply, Request

BODY = canonical({"round": 1})
vectors = arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32))
bodies = st.dictionaries(st.text(max_size=5), st.integers(-(2**53) + 1, 2**53 - 1), max_size=3).map(canonical)


def same(a, b):
    return (a is None and b is None) or (a is not None and b is not None and a.tobytes() == b.tobytes())


# Arrays of up to 40 values, on both sides of a bound of 20: the real bound is tested by its neighbours below.
few_inline = patch.object(wire, "INLINE_VALUES", 20)
none_inline = patch.object(wire, "INLINE_VALUES", -1)


@given(st.sampled_from(sorted(wire.MESSAGE_TYPES)), bodies, st.none() | vectors)
def test_a_request_comes_back_bit_for_bit(kind, body, array):
    with few_inline:
        back = wire.decode_request(wire.encode_request(Request(kind, body, array)))
    assert (back.kind, back.body) == (kind, body)
    assert same(back.array, array)


@given(bodies, st.none() | vectors)
def test_a_reply_comes_back_bit_for_bit(body, array):
    with few_inline:
        back = wire.decode_reply(wire.encode_reply(Reply(body, array)))
    assert back.body == body
    assert same(back.array, array)


def test_the_array_is_flat_little_endian_float32_in_the_body_or_beside_it():
    reply = Reply(BODY, np.array([1.0, -2.0], np.float32))
    data = b"\x00\x00\x80\x3f\x00\x00\x00\xc0"
    inline = wire.encode_reply(reply)
    assert dict(inline["body"]) == {"json": BODY, "flat": data}
    assert list(inline) == ["body"]
    assert not wire.decode_reply(inline).array.flags.writeable
    with none_inline:
        beside = wire.encode_reply(reply)
        assert not wire.decode_reply(beside).array.flags.writeable
    assert dict(beside["body"]) == {"json": BODY}
    assert beside["array"]["flat"].data == data


@pytest.mark.parametrize("size", [0, 1, 2**18 - 1, 2**18, 2**18 + 1])
def test_arrays_up_to_one_mebibyte_are_in_the_body(size):
    array = np.arange(size, dtype=np.float32)
    record = wire.encode_request(Request("round", BODY, array))
    assert list(record) == (["body"] if size <= 2**18 else ["body", "array"])
    assert same(wire.decode_request(record).array, array)


@pytest.mark.parametrize("size", [0, 2**18, 2**18 + 1])
def test_the_other_encoding_of_an_array_is_refused(size):
    reply = Reply(BODY, np.zeros(size, np.float32))
    with patch.object(wire, "INLINE_VALUES", -1 if size <= 2**18 else size):
        record = wire.encode_reply(reply)
    with pytest.raises(InputError) as e:
        wire.decode_reply(record)
    assert e.value.code == "RSD-1111"


@pytest.mark.parametrize("data", [b"\0", b"\0" * 7, b"\0" * (4 * 2**18 + 1), b"\0" * (4 * 2**18 + 4)])
def test_bytes_that_are_no_array_of_the_body_are_refused(data):
    with pytest.raises(InputError) as e:
        wire.decode_reply(RecordDict({"body": ConfigRecord({"json": BODY, "flat": data})}))
    assert e.value.code == "RSD-1111"


def test_a_strided_array_is_written_in_order():
    array = np.arange(10, dtype=np.float32)[::-2]
    assert same(wire.decode_reply(wire.encode_reply(Reply(BODY, array))).array, np.ascontiguousarray(array))


@pytest.mark.parametrize("array", [np.zeros(3), np.zeros((2, 2), np.float32), np.zeros(3, np.uint32)])
def test_other_arrays_are_not_sent(array):
    with pytest.raises(InputError) as e:
        wire.encode_reply(Reply(BODY, array))
    assert e.value.code == "RSD-1111"


def flat(dtype="float32", shape=(2,), stype="residency.f32le", data=b"\0" * 8):
    return Array(dtype=dtype, shape=shape, stype=stype, data=data)


@pytest.mark.parametrize(
    "record",
    [
        ArrayRecord({"flat": flat(), "more": flat()}),
        ArrayRecord({"other": flat()}),
        ArrayRecord({}),
        MetricRecord({"x": 1}),
        ConfigRecord({"flat": b"\0" * 8}),
        ArrayRecord({"flat": flat(dtype="float64", shape=(1,))}),
        ArrayRecord({"flat": flat(dtype="uint32")}),
        ArrayRecord({"flat": flat(dtype="object", shape=(1,))}),
        ArrayRecord({"flat": flat(stype="numpy.ndarray")}),
        ArrayRecord({"flat": flat(shape=(1, 2))}),
        ArrayRecord({"flat": flat(shape=())}),
        ArrayRecord({"flat": flat(shape=(3,))}),
        ArrayRecord({"flat": flat(shape=(-2,))}),
        ArrayRecord({"flat": flat(shape=(2**40,))}),
    ],
)
def test_malformed_arrays_are_refused(record):
    with none_inline, pytest.raises(InputError) as e:
        wire.decode_reply(RecordDict({"body": ConfigRecord({"json": BODY}), "array": record}))
    assert e.value.code == "RSD-1111"


def test_the_array_that_the_malformed_ones_differ_from_is_read():
    record = RecordDict({"body": ConfigRecord({"json": BODY}), "array": ArrayRecord({"flat": flat()})})
    with none_inline:
        assert wire.decode_reply(record).array.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    "records",
    [
        {},
        {"array": ArrayRecord({"flat": flat()})},
        {"body": ConfigRecord({"json": BODY}), "metrics": MetricRecord({"loss": 0.1})},
        {"body": ConfigRecord({"json": BODY}), "second": ConfigRecord({"json": BODY})},
        {"body": MetricRecord({"json": 1})},
        {"body": ConfigRecord({"json": "text"})},
        {"body": ConfigRecord({"json": BODY, "lr": 1.0})},
        {"body": ConfigRecord({"kind": "round", "json": BODY})},
        {"body": ConfigRecord({"json": BODY, "flat": "text"})},
        {"body": ConfigRecord({"json": BODY, "flat": [0.0, 1.0]})},
        {"body": ConfigRecord({"flat": b""})},
        {"body": ConfigRecord({"json": BODY, "flat": b"\0" * 8}), "array": ArrayRecord({"flat": flat()})},
        {"body": ConfigRecord({"json": b"x" * (wire.MAX_BODY_BYTES + 1)})},
    ],
)
def test_other_records_are_refused(records):
    with pytest.raises(InputError) as e:
        wire.decode_reply(RecordDict(records))
    assert e.value.code == "RSD-1110"


@pytest.mark.parametrize("body", [b"", b"{", b'{"b":1, "a":2}', b'{"a":1,"a":1}', b'{"a":NaN}', b'{"a":1.5}'])
def test_a_body_is_canonical_json(body):
    with pytest.raises(InputError):
        wire.encode_reply(Reply(body))
    with pytest.raises(InputError):
        wire.decode_reply(RecordDict({"body": ConfigRecord({"json": body})}))


def test_an_unknown_kind_is_refused():
    with pytest.raises(InputError) as e:
        wire.encode_request(Request("shell", BODY))
    assert e.value.code == "RSD-1110"
    with pytest.raises(InputError):
        wire.decode_request(RecordDict({"body": ConfigRecord({"kind": "shell", "json": BODY})}))


def test_a_round_is_train_and_the_rest_is_query():
    assert {k for k in wire.MESSAGE_TYPES if wire.message_type(k) == "train"} == {"round"}


EXITS = st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 70])
TEXTS = st.text(st.characters(codec="ascii", categories=["L", "N", "Zs"]))


@given(EXITS, TEXTS)
def test_an_error_keeps_its_class_and_texts(exit_code, text):
    error = error_class(exit_code)("RSD-1104", text, rule=text, found=text, limit=text, next=text)
    back = decode_error(encode_error(error))
    assert type(back) is type(error)
    assert back.as_json() == {k: v[:1000] for k, v in error.as_json().items()}


REASONS = st.builds(lambda d: canonical(d).decode(), st.dictionaries(st.text(), st.integers(0, 99)))


@given(st.text(max_size=60) | REASONS)
def test_any_other_reason_is_a_failed_run_and_never_an_exception(reason):
    error = decode_error(reason)
    assert isinstance(error, RunFailed)
    assert error.code == "RSD-8101"
    assert error.found.isprintable()


@pytest.mark.parametrize(
    "change", [{"code": "X"}, {"exit": "4"}, {"exit": True}, {"found": 1}, {"found": "a\x1b[2Jb"}, {"more": ""}]
)
def test_a_forged_error_is_shown_as_foreign(change):
    fields = {**Refused("RSD-1104", "no").as_json(), "exit": 4, **change}
    assert decode_error(canonical(fields).decode()).code == "RSD-8101"


def test_an_unknown_exit_code_becomes_a_bug():
    fields = {**PeerUnreachable("RSD-6101", "no").as_json(), "exit": 99}
    error: ResidencyError = decode_error(canonical(fields).decode())
    assert type(error) is InternalBug


def test_an_endless_reason_is_cut():
    assert decode_error("x" * 10**7).code == "RSD-8101"
    long = Refused("RSD-1104", "m" * 9000, rule="r" * 9000, found="f" * 9000, limit="l" * 9000, next="n" * 9000)
    assert decode_error(encode_error(long)).code == "RSD-1104"
