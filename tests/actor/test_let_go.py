"""What is answered, refused or given up keeps nothing alive, also without the garbage collector."""

import asyncio
import gc
from weakref import ref

import pytest
from actor_tools import PATIENCE, Kernels, message, wait_until

from flashactor import FlashAttnPool
from flashactor.errors import FlashAttnError, RequestError


class Array:
    """Something to be let go of."""


@pytest.fixture(autouse=True)
def _no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Refusing(Kernels):
    """Refuses everything, with an array in the frame that does."""

    def __init__(self):
        super().__init__()
        self.arrays = []

    def prepare(self, work):
        array = Array()
        self.arrays.append(ref(array))
        raise RequestError("q", "this", "that", "another")


def test_a_refused_request_leaves_no_frames(start):
    actor, executor = start(Refusing())
    pending = actor.ask(message(0))
    pending.wait(PATIENCE)
    assert isinstance(pending.error, RequestError)
    assert executor.arrays[0]() is None


def in_a_thread(asking):
    array = Array()
    with pytest.raises(FlashAttnError):
        asking().result(PATIENCE)
    return ref(array)


def in_a_coroutine(asking):
    async def wait():
        array = Array()
        try:
            await asking()
        except FlashAttnError:
            return ref(array)

    return asyncio.run(wait())


@pytest.mark.parametrize("waiting", [in_a_thread, in_a_coroutine])
@pytest.mark.parametrize("options", [{"timeout": 0}, {"priority": "high"}])
def test_an_error_that_was_raised_is_in_no_circle_with_its_reply(start, waiting, options):
    actor, _ = start()
    assert waiting(lambda: actor.ask(message(0), **options))() is None


def test_the_error_of_a_batch_keeps_nothing(start):
    actor, _ = start()
    array = in_a_coroutine(lambda: actor.ask_many([message(0), message(1)], timeout=0))
    assert array() is None


def test_a_pool_that_has_nobody_keeps_no_message():
    pool = FlashAttnPool.start(size=1, executor=Kernels)
    pool.stop()
    assert in_a_thread(lambda: pool.ask(message(0)))() is None


def test_an_answered_message_keeps_no_reply_before_it_until_its_deadline(start):
    actor, _ = start(Kernels(held=False))
    before = actor.ask(message(0))
    before.result(PATIENCE).out = array = Array()
    found = ref(array)
    actor.ask(message(1), timeout=60.0, after=before).result(PATIENCE)
    del before, array
    wait_until(lambda: found() is None, "its end")


def test_a_stream_lives_until_the_launch_of_who_was_asked_with_it(start):
    class Stream(Array):
        def __cuda_stream__(self):
            return 0, 1234

    actor, kernels = start(max_in_flight=1)
    actor.ask(message(0))
    stream = Stream()
    found = ref(stream)
    pending = actor.ask(message(1), stream=stream)
    del stream
    assert found() is not None
    kernels.open()
    pending.result(PATIENCE)


def test_messages_to_a_stopped_actor_are_kept_nowhere(start):
    actor, _ = start()
    actor.stop()
    actor.stop()
    before = actor._mailbox._arrivals.qsize()
    for number in range(10):
        assert actor.ask(message(number)).done
    assert actor._mailbox._arrivals.qsize() == before
