"""Routes: who gets a message, and that nobody gets more than their share."""

import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest

from flashactor.actor.messages import FlashAttnProps
from flashactor.actor.router import LeastLoaded, RoundRobin, RouteKind, Sticky, make_route
from flashactor.errors import RequestError


@dataclass(eq=False)
class FakeMember:
    props: FlashAttnProps
    unanswered: int = 0


def members(count):
    return [FakeMember(FlashAttnProps(label=f"pool-{i}")) for i in range(count)]


def label_of(route, of, key=None):
    return route.choose(of, key).props.label


def test_round_robin_takes_turns():
    route, three = RoundRobin(), members(3)
    assert [label_of(route, three) for _ in range(5)] == ["pool-0", "pool-1", "pool-2", "pool-0", "pool-1"]


def test_round_robin_is_even_within_each_device():
    """Requests of two devices in turn: one shared counter would give each device's second actor nothing."""
    route, four = RoundRobin(), members(4)
    chosen = Counter()
    for _ in range(10):
        chosen[label_of(route, four[:2])] += 1
        chosen[label_of(route, four[2:])] += 1
    assert chosen == {"pool-0": 5, "pool-1": 5, "pool-2": 5, "pool-3": 5}


def test_round_robin_skips_who_is_not_there_and_goes_on_after_it():
    route, three = RoundRobin(), members(3)
    assert [label_of(route, three), label_of(route, three)] == ["pool-0", "pool-1"]
    up = [three[0], three[1]]
    assert [label_of(route, up) for _ in range(4)] == ["pool-0", "pool-1"] * 2
    assert label_of(route, three) == "pool-2"


def test_round_robin_from_threads_gives_equal_shares():
    route, four = RoundRobin(), members(4)
    with ThreadPoolExecutor(8) as threads:
        chosen = Counter(threads.map(lambda _: label_of(route, four), range(400)))
    assert set(chosen.values()) == {100}


def test_least_loaded_takes_the_one_with_the_fewest():
    route, three = LeastLoaded(), members(3)
    for member, load in zip(three, (5, 2, 9), strict=True):
        member.unanswered = load
    assert label_of(route, three) == "pool-1"
    three[1].unanswered = 6
    assert label_of(route, three) == "pool-0"


def test_least_loaded_rotates_ties():
    route, three = LeastLoaded(), members(3)
    three[1].unanswered = 1
    assert [label_of(route, three) for _ in range(4)] == ["pool-0", "pool-2", "pool-0", "pool-2"]


def test_least_loaded_reads_each_load_once():
    """A load changes while it is read: read twice, the least could be nobody's."""
    reads = Counter()

    class Restless(FakeMember):
        @property
        def unanswered(self):
            reads[self.props.label] += 1
            return reads[self.props.label]

        @unanswered.setter
        def unanswered(self, value):
            pass

    of = [Restless(FlashAttnProps(label=f"pool-{i}")) for i in range(3)]
    LeastLoaded().choose(of, None)
    assert reads == {"pool-0": 1, "pool-1": 1, "pool-2": 1}


def test_sticky_keeps_a_key_at_its_member():
    three = members(3)
    first = {key: label_of(Sticky(), three, key) for key in range(100)}
    assert {key: label_of(Sticky(), three[::-1], key) for key in range(100)} == first
    assert set(first.values()) == {"pool-0", "pool-1", "pool-2"}


def test_sticky_moves_only_the_keys_of_who_has_gone():
    four = members(4)
    keys = [f"session-{i}" for i in range(400)]
    before = {key: label_of(Sticky(), four, key) for key in keys}
    after = {key: label_of(Sticky(), four[:2] + four[3:], key) for key in keys}
    moved = {key for key in keys if before[key] != after[key]}
    assert moved == {key for key in keys if before[key] == "pool-2"}
    # Those that moved spread over all who are left.
    assert {after[key] for key in moved} == {"pool-0", "pool-1", "pool-3"}


def test_sticky_spreads_keys_evenly():
    shares = Counter(label_of(Sticky(), members(4), key) for key in range(4000))
    assert all(900 < share < 1100 for share in shares.values()), shares


def test_sticky_is_the_same_in_every_process():
    code = (
        "from types import SimpleNamespace as N\n"
        "from flashactor.actor.router import Sticky\n"
        "of = [N(props=N(label=f'pool-{i}')) for i in range(5)]\n"
        "print([Sticky().choose(of, key).props.label for key in ('a', b'a', 1, -1, '1', 'é', '')])\n"
    )
    here = [label_of(Sticky(), members(5), key) for key in ("a", b"a", 1, -1, "1", "é", "")]
    there = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.strip() == str(here)
    # Another hash would move the sessions of a running fleet at an update.
    assert here == [f"pool-{i}" for i in (2, 4, 1, 4, 0, 1, 4)]


def test_keys_of_different_types_are_different_keys():
    wide = members(64)
    assert len({label_of(Sticky(), wide, key) for key in ("1", b"1", 1)}) == 3


def test_numpys_integers_are_integers():
    three = members(3)
    assert all(
        label_of(Sticky(), three, np.int64(key)) == label_of(Sticky(), three, key) for key in range(50)
    )


def test_the_longest_and_strangest_keys_are_taken():
    three = members(3)
    for key in (10**4000, "\ud800", b"", "x" * 100_000):
        assert label_of(Sticky(), three, key) == label_of(Sticky(), three, key)


@pytest.mark.parametrize("key", [None, True, 1.5, ("a", 1), object], ids=repr)
def test_sticky_wants_a_key(key):
    with pytest.raises(
        RequestError, match=r"^key: got .*expected a text, bytes or an integer.*Remedy: pass key="
    ):
        Sticky().choose(members(2), key)


@pytest.mark.parametrize("route", ["round_robin", "least_loaded", "sticky", *RouteKind], ids=str)
def test_routes_have_names(route):
    kind = RouteKind(route)
    expected = {"round_robin": RoundRobin, "least_loaded": LeastLoaded, "sticky": Sticky}[kind.value]
    assert type(make_route(route)) is expected


def test_a_route_of_ones_own():
    class Last:
        def choose(self, members, key):
            return members[-1]

    own = Last()
    assert make_route(own) is own


@pytest.mark.parametrize("route", ["random", "", None, 3], ids=repr)
def test_another_route_is_refused(route):
    with pytest.raises(RequestError, match=r"^route: got .*'round_robin', 'least_loaded', 'sticky'"):
        make_route(route)
