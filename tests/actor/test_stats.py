"""What actors count and time: sums that hold in every state, histograms, phases."""

import math
import random
import threading
from itertools import accumulate, pairwise

import pytest
from actor_tools import PATIENCE, InThread, Kernels, message, wait_until

from flashactor.actor.meter import BOUNDS, PHASES, ActorStats, Histogram
from flashactor.errors import LaunchError
from flashactor.executors.base import Outcome, Outputs
from flashactor.service import live_actors


def check_sums(stats):
    assert stats.received == stats.completed + stats.failed + stats.pending
    assert stats.failed == sum(stats.errors.values())
    assert 0 <= stats.waiting <= stats.queued <= stats.pending
    assert stats.generation == stats.restarts + 1
    assert {histogram.count for histogram in stats.phases.values()} == {stats.completed}
    assert tuple(stats.phases) == PHASES


def test_a_new_actor_has_done_nothing(start):
    actor, _ = start()
    stats = actor.stats()
    check_sums(stats)
    assert (stats.received, stats.completed, stats.failed, stats.pending) == (0, 0, 0, 0)
    assert (stats.queued, stats.waiting, stats.in_flight, stats.restarts, stats.generation) == (0, 0, 0, 0, 1)
    assert (stats.errors, math.isnan(stats.phases["total"].quantile(0.5))) == ({}, True)


def test_every_state_of_a_message_is_counted_once(start):
    actor, kernels = start(max_in_flight=2, mailbox_size=2)

    def counts():
        stats = actor.stats()
        check_sums(stats)
        return stats.pending, stats.in_flight, stats.queued, stats.waiting, stats.completed, stats.failed

    first, second = actor.ask(message(0)), actor.ask(message(1))
    kernels.wait_launched(2)
    assert counts() == (2, 2, 0, 0, 0, 0)
    third, fourth = actor.ask(message(2)), actor.ask(message(3))
    kernels.wait_prepared(2, 3)
    assert counts() == (4, 2, 2, 0, 0, 0)
    outside = InThread(actor.ask, message(4))
    wait_until(lambda: actor.stats().waiting == 1)
    assert counts() == (5, 2, 3, 1, 0, 0)
    fourth.cancel()
    fifth = outside.result()
    wait_until(lambda: actor.stats().waiting == 0)
    assert counts() == (4, 2, 2, 0, 0, 1)
    first.cancel()  # its kernel goes on
    assert counts() == (3, 2, 2, 0, 0, 2)
    kernels.fail(1, LaunchError("launch", "a refusal", "a launch", "ask again"))
    kernels.wait_launched(3)
    assert second.done
    assert counts() == (2, 2, 1, 0, 0, 3)
    kernels.open()
    for pending in (third, fifth):
        pending.result(PATIENCE)
    wait_until(lambda: not actor.stats().in_flight)
    assert counts() == (0, 0, 0, 0, 2, 3)
    assert actor.stats().errors == {"AskCancelledError": 2, "LaunchError": 1}
    actor.ask("no message")
    actor.tell(message(5))
    actor.stop()
    actor.ask(message(6))
    stats = actor.stats()
    check_sums(stats)
    assert (stats.received, stats.completed) == (8, 3)
    assert stats.errors == {
        "AskCancelledError": 2,
        "LaunchError": 1,
        "RequestError": 1,
        "ActorStoppedError": 1,
    }


@pytest.mark.parametrize("overflow", ["wait", "fail"])
def test_the_sums_hold_at_any_moment(start, overflow):
    """Whoever looks while threads ask, cancel, and are late, finds everybody once."""
    actor, kernels = start(Kernels(held=False), max_in_flight=2, mailbox_size=3, overflow=overflow)
    over = threading.Event()

    def look():
        looks = 0
        while not over.is_set() or not looks:
            check_sums(actor.stats())
            looks += 1
        return looks

    def ask(seed):
        choose = random.Random(seed)
        for number in range(300):
            timeout = choose.choice((None, 0, 0.0005, 5))
            pending = actor.ask(
                message(1000 * seed + number), timeout=timeout, priority=choose.randrange(2), caller=seed
            )
            if choose.random() < 0.3:
                pending.cancel()

    looking = [InThread(look) for _ in range(2)]
    asking = [InThread(ask, seed) for seed in range(3)]
    for thread in asking:
        thread.result()
    over.set()
    assert all(thread.result() for thread in looking)
    actor.stop()
    stats = actor.stats()
    check_sums(stats)
    assert (stats.received, stats.pending) == (900, 0)
    assert len(kernels.launched) == len(set(kernels.launched)) >= stats.completed


def test_live_actors_are_those_that_are_started_and_not_stopped(start):
    before = live_actors()
    one, two = start(label="one")[0], start(label="two")[0]
    assert [actor for actor in live_actors() if actor not in before] == [one, two]
    one.stop()
    assert [actor for actor in live_actors() if actor not in before] == [two]


# Durations.


def test_phases_of_a_request_add_up_to_its_total(start):
    class Timed(Kernels):
        def submit(self, work, done):
            done(Outcome(outputs=Outputs(out=1), compile_seconds=0.25, launch_seconds=0.5))

    actor, _ = start(Timed())
    timings = [actor.ask(message(number)).result(PATIENCE).timings for number in range(10)]
    phases = actor.stats().phases
    assert phases["compile"].sum == pytest.approx(2.5)
    assert phases["launch"].sum == pytest.approx(5.0)
    assert phases["queue"].sum == pytest.approx(sum(each.queued for each in timings))
    assert phases["complete"].sum == pytest.approx(sum(each.completed for each in timings))
    assert [phases[name].count for name in PHASES] == [10] * 5


def test_each_phase_has_the_time_that_passed_in_it(start):
    """Delays that the test makes, in one phase each; the others stay below the smallest of them."""
    actor, kernels = start(Kernels(not_ready=[1]), max_in_flight=1)
    pause = threading.Event()
    first, second = actor.ask(message(0)), actor.ask(message(1))
    kernels.wait_launched()
    pause.wait(0.1)
    kernels.finish(0)
    kernels.wait_prepared(1)
    pause.wait(0.3)
    kernels.deliver(1)
    kernels.wait_launched(2)
    kernels.finish(1)
    one, two = (pending.result(PATIENCE).timings for pending in (first, second))
    assert one.completed >= 0.09
    assert two.compiled >= 0.38
    assert two.completed < 0.3
    assert two.queued < 0.3
    total = actor.stats().phases["total"]
    assert total.sum == pytest.approx(one.total + two.total, rel=0.05)
    assert total.count == 2


def test_failed_requests_have_no_durations(start):
    actor, kernels = start()
    actor.ask(message(0)).cancel()
    failing = actor.ask(message(1))
    kernels.wait_launched()
    wait_until(lambda: 1 in kernels.launched)
    kernels.fail(1, LaunchError("launch", "a refusal", "a launch", "ask again"))
    failing.wait(PATIENCE)
    assert [actor.stats().phases[name].count for name in PHASES] == [0] * 5


def test_bounds_go_from_less_than_a_hop_to_more_than_a_compile():
    assert list(BOUNDS) == sorted(set(BOUNDS))
    assert BOUNDS[0] == pytest.approx(1e-5)
    assert BOUNDS[-1] == 60.0
    assert max(upper / lower for lower, upper in pairwise(BOUNDS)) <= 2.5001


def histogram(*counts):
    return Histogram((1.0, 2.0, 4.0), counts, 0.0)


@pytest.mark.parametrize(
    ("counts", "q", "seconds"),
    [
        ((4, 0, 0, 0), 0.5, 0.5),
        ((4, 0, 0, 0), 1.0, 1.0),
        ((4, 0, 0, 0), 0.0, 0.0),
        ((0, 4, 0, 0), 0.0, 1.0),
        ((0, 4, 0, 0), 0.5, 1.5),
        ((2, 2, 0, 0), 0.5, 1.0),
        ((2, 0, 2, 0), 0.75, 3.0),
        ((1, 1, 1, 1), 0.99, 4.0),
        ((0, 0, 0, 3), 0.5, 4.0),
        ((0, 0, 0, 3), 0.0, 4.0),
    ],
)
def test_quantiles(counts, q, seconds):
    assert histogram(*counts).quantile(q) == pytest.approx(seconds)


def test_a_quantile_of_nothing_is_none():
    assert math.isnan(histogram(0, 0, 0, 0).quantile(0.5))


def test_quantiles_are_as_exact_as_their_buckets():
    """Against the true quantiles of random durations."""
    source = random.Random(5)
    durations = sorted(math.exp(source.uniform(math.log(2e-5), math.log(50))) for _ in range(5000))
    counts = [0] * (len(BOUNDS) + 1)
    for seconds in durations:
        counts[sum(bound < seconds for bound in BOUNDS)] += 1
    found = Histogram(BOUNDS, tuple(counts), sum(durations))
    estimates = [found.quantile(percent / 100) for percent in range(1, 100)]
    assert estimates == list(accumulate(estimates, max))
    for percent, estimate in enumerate(estimates, 1):
        true = durations[percent * 50]
        assert true / 2.6 < estimate < true * 2.6


def test_stats_are_a_picture_of_one_moment(start):
    actor, _ = start(Kernels(held=False))
    before = actor.stats()
    actor.ask(message(0)).result(PATIENCE)
    actor.ask("no message")
    assert before == ActorStats(phases=before.phases)
    assert before.errors == {}
    assert before.phases["total"].count == 0
