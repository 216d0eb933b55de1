import hashlib
import io
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.bundle_guard import ALLOWED_FILES, MAX_BUNDLE_BYTES, MAX_FILE_BYTES, check_bundle
from compliance.errors import Refused

PROJECT = """[project]
name = "residency-app"
version = "0.1.0"
[tool.flwr.app]
publisher = "residency"
[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"
[tool.flwr.app.config]
study = ""
"""


def archive(files, compression=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as z:
        for name, data in files:
            z.writestr(zipfile.ZipInfo(name), data, compression)
    return out.getvalue()


def bundle(project=PROJECT, *more):
    return archive([("pyproject.toml", project), ("README.md", "text"), (".info/CONTENT", "list"), *more])


def check(content, approved=None):
    digest = hashlib.sha256(content).hexdigest()
    return check_bundle(digest, content, frozenset({digest}) if approved is None else approved)


def refusal(content, approved=None):
    with pytest.raises(Refused) as refused:
        check(content, approved)
    return refused.value


def test_the_code_free_bundle_is_accepted():
    facts = check(bundle())
    assert (facts.name, facts.version, len(facts.files)) == ("residency-app", "0.1.0", 3)
    assert facts.sha256 == hashlib.sha256(bundle()).hexdigest()


def test_another_content_than_announced_is_refused():
    with pytest.raises(Refused) as refused:
        check_bundle("0" * 64, bundle(), frozenset({"0" * 64}))
    assert refused.value.code == "RSD-1101"


def test_an_unapproved_digest_is_refused():
    error = refusal(bundle(), frozenset({"1" * 64}))
    assert (error.code, error.limit) == ("RSD-1104", "1" * 64)
    assert refusal(bundle(), frozenset()).limit == "no approved bundle"


def test_code_is_reported_before_the_missing_approval():
    assert refusal(bundle(PROJECT, ("client/app.py", "x")), frozenset()).code == "RSD-1103"


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=30).filter(lambda n: n not in ALLOWED_FILES))
def test_any_other_name_is_refused(name):
    error = refusal(bundle(PROJECT, (name, "x")))
    assert error.code in {"RSD-1102", "RSD-1103"}


@given(st.binary(max_size=300))
def test_garbage_is_refused_and_never_another_error(content):
    assert refusal(content).code == "RSD-1102"


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_leaves_a_checked_bundle(position, flip):
    content = bytearray(bundle())
    content[position % len(content)] ^= flip
    try:
        facts = check(bytes(content))
    except Refused:
        return
    assert set(facts.files) <= ALLOWED_FILES


@pytest.mark.parametrize(
    "project",
    [
        PROJECT.replace("client.app:app", "client.other:app"),
        PROJECT.replace("server.app:app", "os:system"),
        PROJECT.replace('study = ""', 'study = ""\nsigma = 0'),
        PROJECT.replace('study = ""', 'study = "' + "1" * 64 + '"'),
        PROJECT.replace('[tool.flwr.app.config]\nstudy = ""\n', ""),
        PROJECT.replace("[tool.flwr.app.components]", '[tool.flwr.app.components]\nagentapp = "x:y"'),
    ],
)
def test_other_components_and_settings_are_refused(project):
    assert refusal(bundle(project)).code == "RSD-1106"


@pytest.mark.parametrize("project", ["", "not toml [", "[project]\nname='x'\n", "project = 1\n", "tool = 'x'\n"])
def test_an_unreadable_project_is_refused(project):
    assert refusal(bundle(project)).code == "RSD-1102"


def test_a_bundle_without_a_project_is_refused():
    assert refusal(archive([("README.md", "text")])).code == "RSD-1102"


def test_sizes_are_bounded():
    assert refusal(b"x" * (MAX_BUNDLE_BYTES + 1)).code == "RSD-1102"
    large = archive([("pyproject.toml", PROJECT), ("README.md", b"\0" * (MAX_FILE_BYTES + 1))], zipfile.ZIP_DEFLATED)
    assert len(large) < 4096
    assert refusal(large).code == "RSD-1102"
