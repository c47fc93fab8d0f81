"""The queue of launches: order, places, who launches, and closing."""

import threading
import time

import pytest

from flashactor.executors.launch_queue import LaunchQueue

PATIENCE = 10.0


class Item:
    """Something to launch."""

    def __init__(self, name, *, ready=True):
        self.name, self.ready = name, ready


class Launches:
    """What a queue launched, and by which threads."""

    def __init__(self):
        self.names, self.threads = [], []
        self.refused = set()
        self._changed = threading.Condition()

    def __call__(self, item):
        with self._changed:
            self.names.append(item.name)
            self.threads.append(threading.current_thread().name)
            self._changed.notify_all()
        return item.name not in self.refused

    def wait_for(self, count):
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.names) >= count, PATIENCE), self.names


@pytest.fixture
def launches():
    return Launches()


@pytest.fixture
def queue(launches):
    queue = LaunchQueue(2, launches, "launcher")
    yield queue
    queue.close()


def test_with_nothing_in_its_way_an_item_is_launched_by_who_puts_it(queue, launches):
    assert queue.put(Item("a"))
    assert (launches.names, launches.threads) == (["a"], [threading.current_thread().name])


def test_what_is_not_ready_holds_up_what_comes_after(queue, launches):
    first = Item("a", ready=False)
    queue.put(first)
    queue.put(Item("b"))
    time.sleep(0.05)
    assert launches.names == []
    first.ready = True
    queue.wake()
    launches.wait_for(2)
    assert launches.names == ["a", "b"]
    assert launches.threads == ["launcher", "launcher"]


def test_no_more_than_there_are_places(queue, launches):
    for name in "abc":
        queue.put(Item(name))
    time.sleep(0.05)
    assert launches.names == ["a", "b"]
    queue.free_place()
    launches.wait_for(3)


def test_an_item_that_does_not_run_takes_no_place(queue, launches):
    launches.refused = set("ab")
    for name in "abcd":
        queue.put(Item(name))
    launches.wait_for(4)
    assert launches.names == list("abcd")


def test_closing_launches_what_is_there_and_takes_no_more(queue, launches):
    item = Item("a", ready=False)
    queue.put(item)
    closing = threading.Thread(target=queue.close)
    closing.start()
    time.sleep(0.05)
    assert closing.is_alive()
    assert not queue.put(Item("b"))
    item.ready = True
    queue.wake()
    closing.join(PATIENCE)
    assert not closing.is_alive()
    assert launches.names == ["a"]
    queue.close()


def test_closing_waits_for_the_launch_that_is_under_way():
    entered, leave = threading.Event(), threading.Event()

    def launch(item):
        entered.set()
        return leave.wait(PATIENCE)

    queue = LaunchQueue(1, launch, "launcher")
    putting = threading.Thread(target=queue.put, args=(Item("a"),))
    putting.start()
    assert entered.wait(PATIENCE)
    closing = threading.Thread(target=queue.close)
    closing.start()
    time.sleep(0.05)
    assert closing.is_alive()
    leave.set()
    closing.join(PATIENCE)
    putting.join(PATIENCE)
    assert not closing.is_alive()


def test_the_order_of_one_thread_is_kept_among_many():
    launched = []

    def launch(item):
        launched.append(item.name)
        return False

    queue = LaunchQueue(3, launch, "launcher")
    items = {t: [Item((t, n), ready=n % 3 > 0) for n in range(200)] for t in range(4)}

    def put(mine):
        for item in mine:
            queue.put(item)
            item.ready = True
            queue.wake()

    threads = [threading.Thread(target=put, args=(mine,)) for mine in items.values()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    queue.close()
    assert len(launched) == 800
    for t in items:
        assert [n for thread, n in launched if thread == t] == list(range(200))
