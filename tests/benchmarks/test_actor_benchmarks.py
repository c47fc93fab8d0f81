"""The measuring of asks measures what it says: how many are under way, and medians of the right numbers."""

import asyncio
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from benchmarks.actor import peers
from benchmarks.actor.contenders import BareHop, BareThreadHop
from benchmarks.actor.measuring import in_threads, in_turn, pipelined, shared, trip, windowed
from benchmarks.actor.soaking import Soak
from benchmarks.soak import WARM_UP_PARTS, growth


class Counter:
    """Asks that complete in the next turn of the loop; counts them and how many were under way."""

    def __init__(self):
        self.sent = self.under_way = self.most_under_way = 0

    def ask(self):
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self.sent += 1
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        loop.call_soon(self.answer, future)
        return future

    def answer(self, future):
        self.under_way -= 1
        future.set_result(None)


def test_a_trip_is_the_median_and_what_99_of_100_stay_below():
    assert trip([number * 1e-6 for number in range(100, 0, -1)]) == pytest.approx((51.0, 100.0))


@pytest.mark.parametrize(
    ("measure", "most"),
    [
        (pipelined, 60),
        (partial(windowed, window=7), 7),
        (partial(shared, tasks=6), 6),
    ],
    ids=["pipelined", "windowed", "shared"],
)
def test_as_many_asks_are_under_way_as_is_said(measure, most):
    counter = Counter()
    assert asyncio.run(measure(counter.ask, 60)) > 0.0
    assert (counter.sent, counter.most_under_way) == (60, most)


def test_kinds_are_asked_in_turn_and_as_often():
    first, second = Counter(), Counter()
    found = asyncio.run(in_turn({"first": first.ask, "second": second.ask}, rounds=3, batch=4))
    assert list(found) == ["first", "second"]
    assert (first.sent, second.sent) == (12, 12)


def test_threads_share_the_messages():
    asked = []

    def ask_and_wait():
        asked.append(threading.current_thread())

    in_threads(ask_and_wait, 40, threads=4)
    assert sorted(asked.count(thread) for thread in set(asked)) == [10] * 4


def test_bare_hops_answer_and_end():
    before = threading.active_count()
    hop, thread_hop = BareHop(), BareThreadHop()
    asyncio.run(pipelined(hop.ask, 10))
    thread_hop.ask_and_wait()
    hop.stop()
    thread_hop.stop()
    assert threading.active_count() == before


def one_pass(median, tasks):
    figures = {"awaited": {"median": median, "p99": 9.0}, "pipelined": 5.0, "windowed": 6.0, "tasks": tasks}
    return [{"peer": "ray", "version": "2", "actors": {"in another process": figures}}]


def test_rows_of_peers_are_medians_over_the_passes():
    passes = [one_pass(30.0, 1.0), one_pass(10.0, 3.0), one_pass(20.0, 2.0)]
    assert peers.peer_rows(passes) == [
        ("ray 2, in another process", "20 us", "9 us", "5 us", "6 us", "2 us"),
    ]


def test_a_peer_that_is_not_there_says_what_failed(monkeypatch):
    monkeypatch.setattr(peers, "PEERS", (("nobody", 1000),))
    with pytest.raises(RuntimeError, match=r"nobody_actor --messages 1000 failed:\n.*No module named"):
        peers.run_peers(Path(sys.executable))


def test_growth_is_counted_from_the_end_of_the_warm_up():
    before = [100] * (WARM_UP_PARTS - 1)
    assert growth(Soak(1, resident_bytes=[*before, 200, 230, 210])) == 30
