"""The documents name only what is there: commands with their flags, make targets, links, files, tests, codes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from compliance import errors
from compliance.codes_index import index
from residency import cli

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
ADRS = sorted((ROOT / "docs" / "adr").glob("*.md"))
ROLES = ("operator", "site-engineer", "signatory-and-dpo", "auditor")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_TEST = re.compile(r"tests/[\w/.-]+\.py")
_SOURCE = re.compile(r"(?<![\w/])(?:client|server|compliance|strategies|demo|bench|docs)/[\w/.-]+\.(?:py|md)")
_RSD = re.compile(r"RSD-(\d{4})")


def _id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _prompts(text: str) -> Iterator[str]:
    """What is typed after the prompt in console blocks, continued lines joined."""
    for language, body in _FENCE.findall(text):
        if language == "console":
            for line in body.replace("\\\n", " ").splitlines():
                if line.startswith("$ "):
                    yield line[2:]


def _spans(text: str) -> list[str]:
    """Inline code outside fenced blocks."""
    return _CODE.findall(_FENCE.sub("", text))


def _parse(words: list[str]) -> None:
    """Parse `words` as click would before calling the command. Raises click.UsageError."""
    command: click.Command = cli
    context = click.Context(cli, info_name="residency")
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        found = command.get_command(context, name)
        if found is None or found.name == "absent":
            raise click.UsageError(f"no such command: {name}")
        command, context = found, click.Context(found, info_name=name, parent=context)
    options = {o: p for p in command.get_params(context) for o in p.opts if p.is_eager}
    if rest and rest[0] in options:
        return  # --help and --version: nothing else is read
    command.make_context(str(command.name), rest)
    if isinstance(command, click.Group):
        raise click.UsageError("a group, not a command")


def _targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", _text(ROOT / "Makefile"), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_typed_commands_exist_with_their_flags(page: Path) -> None:
    wrong = {}
    for line in _prompts(_text(page)):
        for part in re.split(r"\s*(?:&&|\|)\s*", line):
            words = shlex.split(part)
            if words[:1] == ["residency"]:
                try:
                    _parse(words[1:])
                except click.UsageError as e:
                    wrong[part] = e.format_message()
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_named_commands_exist(page: Path) -> None:
    wrong = {}
    for span in _spans(_text(page)):
        words = span.split()
        if words[:1] == ["residency"] and len(words) > 1:
            try:
                _parse(words[1:])
            except click.MissingParameter:
                continue  # a command that is only named
            except click.UsageError as e:
                wrong[span] = e.format_message()
    assert not wrong


def test_the_check_itself_sees_what_is_wrong() -> None:
    for words in ("stud show x", "study shew x", "study show x --nope", "study show", "study", "key new --role boss"):
        with pytest.raises(click.UsageError):
            _parse(words.split())
    _parse(["verify", "b", "--trust", "t"])
    _parse(["--version"])


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_make_targets_exist(page: Path) -> None:
    text = _text(page)
    typed = [*_prompts(text), *_spans(text)]
    named = {m for line in typed for m in re.findall(r"\bmake ([a-z-]+)", line)}
    assert named <= _targets()


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_relative_links_and_anchors_lead_somewhere(page: Path) -> None:
    wrong = []
    for link in _LINK.findall(_text(page)):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.is_file() or (anchor and anchor not in _anchors(target)):
            wrong.append(link)
    assert not wrong


def _anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", _FENCE.sub("", _text(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_named_tests_and_sources_exist(page: Path) -> None:
    text = _text(page)
    named = {*_TEST.findall(text), *_SOURCE.findall(text)}
    assert not {name for name in named if not (ROOT / name).is_file() and not (page.parent / name).is_file()}


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_named_codes_are_explained(page: Path) -> None:
    named = {f"RSD-{n}" for n in _RSD.findall(_without_ranges(_text(page)))}
    assert named <= set(index())


def _without_ranges(text: str) -> str:
    return re.sub(r"^\| RSD-\d{4} to RSD-\d{4} \|", "", text, flags=re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_words_that_no_page_may_hold(page: Path) -> None:
    text = _text(page)
    promised = "(?:GDPR|HIPAA|PIPL|law)[ -]?" + "compliant"
    assert not re.search(promised, text, re.IGNORECASE)
    assert "://" not in text  # no host of a registry, a model hub or a repository: pages must hold offline and in forks
    assert not re.search(r"--(?:extra-)?index-url|TODO|FIXME", text)


def test_what_is_missing_is_told_in_one_place() -> None:
    telling = {_id(p) for p in PAGES if re.search(r"\bnot yet\b", _text(p), re.IGNORECASE)}
    assert telling == {"docs/guarantees.md", "docs/threats.md"}


def test_the_readme_starts_with_what_a_reader_needs() -> None:
    lines = _text(ROOT / "README.md").splitlines()
    at = {word: next(i for i, line in enumerate(lines, 1) if word in line) for word in ("$ make demo", "$ make test")}
    output = next(i for i, line in enumerate(lines, 1) if line.strip() == "<!-- demo-output -->")
    assert max(at.values()) < output < 40
    assert "not legal advice" in re.sub(r"\s+", " ", _text(ROOT / "docs" / "signatory-and-dpo.md").lower())
    assert "nothing here is legal advice" in re.sub(r"\s+", " ", "\n".join(lines).lower())
    for role in ROLES:
        assert f"docs/{role}.md" in "\n".join(lines)


def test_each_extra_of_the_readme_exists() -> None:
    import tomllib

    extras = set(tomllib.loads(_text(ROOT / "pyproject.toml"))["project"]["optional-dependencies"])
    for page in PAGES:
        assert set(re.findall(r"(?:\.|residency)\[([a-z]+)\]", _text(page))) <= extras


def test_exit_codes_are_those_of_the_errors() -> None:
    rows = re.findall(r"^\| (\d+) \|", _text(ROOT / "docs" / "exit-codes.md"), re.MULTILINE)
    assert {int(n) for n in rows} == {0, 130, *errors._BY_EXIT}
    assert len(rows) == len(set(rows))


def test_every_code_lies_in_one_documented_area() -> None:
    found = re.findall(r"^\| RSD-(\d{4}) to RSD-(\d{4}) \|", _text(ROOT / "docs" / "exit-codes.md"), re.MULTILINE)
    areas = [range(int(low), int(high) + 1) for low, high in found]
    homeless = [code for code in index() if sum(int(code[4:]) in area for area in areas) != 1]
    assert not homeless


def test_each_invariant_and_its_parts_are_there() -> None:
    text = _text(ROOT / "docs" / "guarantees.md")
    sections = re.split(r"^### (\d+)\. ", text.split("## What differential privacy")[0], flags=re.MULTILINE)
    numbers, bodies = sections[1::2], sections[2::2]
    assert [int(n) for n in numbers] == list(range(1, 13))
    for body in bodies:
        assert all(f"\n- {part}" in body for part in ("Holds: ", "By: ", "Tests: ", "Not covered: "))


def test_each_role_is_walked_with_commands() -> None:
    for role in ROLES:
        typed = [line for line in _prompts(_text(ROOT / "docs" / f"{role}.md")) if line.startswith("residency ")]
        assert len(typed) >= 5


def test_every_command_is_walked_by_some_role() -> None:
    typed = {line for role in ROLES for line in _prompts(_text(ROOT / "docs" / f"{role}.md"))}
    product = [name for name in _leaves(cli, "residency") if name.split()[1] not in {"demo", "bench"}]
    missing = [name for name in product if not any(f"{line} ".startswith(f"{name} ") for line in typed)]
    assert not missing


def _leaves(group: click.Group, name: str) -> Iterator[str]:
    context = click.Context(group)
    for child in group.list_commands(context):
        command = group.get_command(context, child)
        if isinstance(command, click.Group) and command.commands:
            yield from _leaves(command, f"{name} {child}")
        elif command is not None:
            yield f"{name} {child}"


def test_records_are_numbered_and_say_what_they_cost() -> None:
    assert [int(p.name[:4]) for p in ADRS] == list(range(1, len(ADRS) + 1))
    for page in ADRS:
        text = _text(page)
        assert text.startswith(f"# {page.name[:4]}: ")
        assert all(part in text for part in ("## Context", "## Decision", "## Consequences", "Negative: "))
