"""What is particular about addresses that the user's own commands move."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from drtool.addresses.waiting import Patience
from drtool.errors import AddressError, AddressTransient, ConfigError
from drtool.hosts.local import LocalRunner
from tests.contracts.address_contract import PATIENCE
from tests.contracts.command_sites import CommandSite, GatedRunner


@pytest.fixture
def site(tmp_path: Path) -> CommandSite:
    return CommandSite(tmp_path)


def test_command_that_says_it_moved_the_address_and_did_not_is_not_believed(site: CommandSite) -> None:
    site.script("move", "exit 0\n")
    with pytest.raises(AddressTransient, match=f"still says {site.a}") as caught:
        site.address().move(site.b, expected=site.a)
    assert caught.value.hint
    assert site.clock.monotonic() >= PATIENCE.total_seconds()


def test_command_that_moved_the_address_and_says_it_did_not_is_not_believed_either(site: CommandSite) -> None:
    site.script("move", 'printf %s "$1" > "$(dirname "$0")/holder.holder"\nexit 9\n')
    site.address().move(site.b, expected=site.a)
    assert site.at() == site.b


def test_command_that_fails_is_told_with_its_status_and_last_words(site: CommandSite) -> None:
    site.script("move", "echo 'the router is on fire' >&2; exit 9\n")
    with pytest.raises(AddressError, match="on fire") as caught:
        site.address().move(site.b, expected=site.a)
    assert caught.value.code == "9"
    assert site.clock.monotonic() == 0


def test_command_is_told_both_holders_as_arguments_of_their_own(site: CommandSite) -> None:
    site.place(None)
    site.script("move", 'printf "[%s]" "$@" > "$0.seen"; printf %s "$1" > "$(dirname "$0")/holder.holder"\n')
    move = (str(site.folder / "move"), "{to}", "{expected}", "from {expected} to {to}", "{other}")
    site.address(move=move).move(site.b, expected=None)
    assert (site.folder / "move.seen").read_text() == f"[{site.b}][][from  to {site.b}][{{other}}]"


def test_command_that_prints_two_holders_is_a_fault(site: CommandSite) -> None:
    site.place(f"{site.a}\n{site.b}")
    with pytest.raises(AddressError, match="2 lines"):
        site.address().holder()


@pytest.mark.parametrize("printed", ["--all", "\x1b[31mgitlab-1", "x" * 300])
def test_command_that_prints_no_name_is_a_fault(site: CommandSite, printed: str) -> None:
    site.place(printed)
    with pytest.raises(AddressError, match="no holder's name"):
        site.address().holder()


def test_command_that_prints_spaces_and_lines_around_a_name_prints_a_name(site: CommandSite) -> None:
    site.place(f"\n  {site.a}  \n\n")
    assert site.address().holder() == site.a


def test_command_that_hangs_is_ended_and_asked_again(site: CommandSite) -> None:
    site.script("holder", 'test -e "$0.late" || { touch "$0.late"; exec sleep 300; }\ncat "$0.holder"\n')
    site.runner = LocalRunner()
    assert site.address(timeout=timedelta(seconds=1)).holder() == site.a


def test_command_without_a_place_for_the_new_holder_is_refused(site: CommandSite) -> None:
    for move in ((), ("move",), ("{to}", "there")):
        with pytest.raises(ConfigError):
            site.address(move=move)
    with pytest.raises(ConfigError):
        site.address(holder=())


def test_command_check_may_be_left_out(site: CommandSite) -> None:
    assert isinstance(site.runner, GatedRunner)
    site.address(check=()).check(site.b, expected=site.a)
    assert [Path(command.argv[0]).name for command in site.runner.commands] == ["holder", "sh"]


def test_command_address_settles_as_its_user_says(site: CommandSite) -> None:
    assert site.address().settles_within == timedelta()
    assert site.address(settles_within=timedelta(minutes=10)).settles_within == timedelta(minutes=10)
    assert Patience(site.clock).limit > timedelta(minutes=1)
