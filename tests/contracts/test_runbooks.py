"""The runbooks have one form, and what they tell to do is done here, on a small GitLab: see tests/runbooks.py."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from drtool.demo.sandbox import Sandbox
from tests import sandboxes
from tests.contracts.runbook_scenes import SCENES, stage, template
from tests.runbooks import HEADINGS, Scene, blocks, flaws, is_run, play

FOLDER = Path(__file__).parents[2] / "runbooks"
REFERENCES = {"keys.md": "tells what the keys are and where to keep them; a-lost-key.md is the runbook"}
RUNBOOKS = sorted(page for page in FOLDER.glob("*.md") if page.name not in REFERENCES)

PLAYED_BY = {"migrate-to-new-host.md": "tests/integration/test_cutover_journey.py"}
"""Runbooks that need two hosts and an address: by the tests that play them."""

NOT_EXECUTED = {
    "from-cron-and-ossfs.md": "it changes root's crontab and mounts of a real host",
}
"""Runbooks without a block that is run, and why."""

GOOD = "# A title\n\n" + "\n".join(f"## {name}\n\nWords.\n" for name in HEADINGS)
STEPS = "## Steps\n\n"


@pytest.mark.parametrize("page", RUNBOOKS, ids=lambda page: page.stem)
def test_runbook_has_the_one_form(page: Path) -> None:
    assert flaws(page) == []


@pytest.mark.parametrize("page", RUNBOOKS, ids=lambda page: page.stem)
def test_runbook_is_executed_or_says_why_not(page: Path) -> None:
    runs = any(map(is_run, blocks(page)))
    assert runs == (page.name in SCENES or page.name in PLAYED_BY)
    assert runs != (page.name in NOT_EXECUTED)
    if test := PLAYED_BY.get(page.name):
        assert f'play(FOLDER / "{page.name}"' in (FOLDER.parent / test).read_text()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    sandboxes.require()
    with template(tmp_path_factory.mktemp("runbooks") / "host") as made:
        yield made


@pytest.mark.engine("postgresql")
@pytest.mark.engine("age")
@pytest.mark.parametrize("name", sorted(SCENES))
def test_runbook_does_what_it_says(name: str, host: Sandbox, tmp_path: Path) -> None:
    if name == "audit.md" and shutil.which("age") is None:
        pytest.skip("age is not installed")
    with stage(tmp_path, host) as made, SCENES[name](made) as scene:
        assert play(FOLDER / name, scene) == sum(map(is_run, blocks(FOLDER / name)))


# -- the checker itself ---------------------------------------------------------------------------------------------


def write(directory: Path, steps: str, text: str = GOOD) -> Path:
    page = directory / "a-runbook.md"
    page.write_text(text.replace(STEPS, STEPS + steps))
    return page


def run(directory: Path, steps: str) -> int:
    page = write(directory, steps)
    assert flaws(page) == []
    return play(page, Scene(directory, {"PATH": ""}, {"/etc/drtool": lambda: str(directory)}))


def test_checker_finds_nothing_wrong_with_a_good_runbook(tmp_path: Path) -> None:
    steps = "```sh run\necho one   two\nls /etc/drtool\n```\n\n```text seen\none … two\na-runbook.md\n```\n\n"
    assert run(tmp_path, steps + "1. Then\n\n   ```sh run status=3\n   exit 3\n   ```\n") == 2


@pytest.mark.parametrize("name", HEADINGS)
def test_checker_misses_a_heading(name: str, tmp_path: Path) -> None:
    assert flaws(write(tmp_path, "", GOOD.replace(f"## {name}\n", "")))


@pytest.mark.parametrize(
    ("text", "flaw"),
    [
        (GOOD.replace("## When", "## Then"), "headings"),
        (GOOD.replace("## When\n\nWords.", "## When\n"), "nothing below When"),
        (GOOD.removeprefix("# A title"), "title"),
        (GOOD + "line\n" * 160, "longer"),
        (GOOD + "[a link](nowhere.md)\n", "nowhere"),
        (GOOD + "[a link](#not-here)\n", "not-here"),
        (GOOD + "```sh runn\ntrue\n```\n", "unknown mark"),
        (GOOD + "```sh run satus=3\nexit 3\n```\n", "unknown mark"),
        (GOOD + "```sh run status=3\nexit 3\ntrue\n```\n", "which of its lines"),
        (GOOD + "```text seen\nnothing\n```\n", "nothing was run"),
        (GOOD + "```sh run\ndrtool backup --nope\n```\n", "--nope"),
        (GOOD + "```sh\ndrtool backup --nope\n```\n", "--nope"),
        (GOOD + "Say `drtool nope now` there.\n", "nope"),
    ],
)
def test_checker_finds_what_is_wrong_with_the_form(text: str, flaw: str, tmp_path: Path) -> None:
    found = flaws(write(tmp_path, "", text))
    assert len(found) == 1
    assert flaw in found[0]


@pytest.mark.parametrize(
    "steps",
    [
        "```sh run\nfalse\n```\n",
        "```sh run\nfalse\ntrue\n```\n",
        "```sh run\nfalse | true\n```\n",
        "```sh run\ndrtool list --config /etc/drtool/none.toml\n```\n",
        "```sh run status=3\ntrue\n```\n",
        "```sh run status=3\nexit 4\n```\n",
        "```sh run\nls /etc/drtool/nothing\n```\n",
        "```sh run\necho one\n```\n\n```text seen\ntwo\n```\n",
        "```sh run\necho two\necho one\n```\n\n```text seen\none … two\n```\n",
        "```sh run\nno-such-program\n```\n",
    ],
)
def test_checker_fails_where_a_runbook_says_what_is_not_so(steps: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"a-runbook\.md"):
        run(tmp_path, steps)


def test_checker_fails_where_nobody_does_what_is_to_be_done_by_hand(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="sing"):
        run(tmp_path, "<!-- by hand: sing -->\n")
    page = write(tmp_path, "")
    with pytest.raises(AssertionError, match="dance"):
        play(page, Scene(tmp_path, {"PATH": ""}, {}, {"dance": lambda: None}))
