"""How programs end with actors in them: work in flight, threads and coroutines that wait, Ctrl-C."""

import signal
import threading

import pytest
from actor_tools import PATIENCE, message, run_script, start_script

from flashactor.actor import address, incarnation
from flashactor.actor.deadlines import Deadlines
from flashactor.errors import ActorFailedError, ActorStoppedError

RUNNING = """
kernels = Kernels()
actor = FlashAttnActor.start(FlashAttnProps(max_in_flight=1), kernels)
launched, queued = actor.ask(message(0)), actor.ask(message(1))
kernels.wait_launched()
"""


@pytest.mark.parametrize(
    "how",
    [
        "",
        "sys.exit()",
        "InThread(launched.result)",
        "threading.Thread(target=actor.stop, args=(None,), daemon=True).start()",
        "launched.add_done_callback(lambda reply: print(type(reply.error).__name__))",
        "actor.ask(message(2), timeout=0.01); time.sleep(0.1)",
        "kernels.finish(0)",
        "del actor, launched, queued",
    ],
    ids=[
        "end",
        "exit",
        "daemon waits",
        "daemon stops",
        "callback",
        "expired",
        "one done",
        "garbage",
    ],
)
def test_a_program_ends_with_work_in_flight(how):
    printed = run_script(RUNNING + how, timeout=PATIENCE)
    assert printed == (["ActorStoppedError"] if "print" in how else [])


def test_a_thread_that_waits_is_answered_at_the_end():
    """A daemon's thread may still tell somebody, in the time that the interpreter leaves it."""
    printed = run_script(
        RUNNING
        + """
import atexit
waiting = InThread(queued.result)

def see():
    try:
        waiting.result()
    except ActorStoppedError as error:
        print(type(error).__name__, error.retry_safe)

atexit._run_exitfuncs()
see()
""",
        timeout=PATIENCE,
    )
    assert printed == ["ActorStoppedError", "True"]


def test_other_threads_of_a_program_may_go_on_with_an_actor():
    """The main thread's end is not the program's while others, which are no daemons, are at work."""
    printed = run_script(
        """
actor = FlashAttnActor.start(FlashAttnProps(), Kernels(held=False))

def work():
    threading.main_thread().join()
    print([actor.ask(message(number)).result(5).out for number in range(3)])

threading.Thread(target=work).start()
""",
        timeout=PATIENCE,
    )
    assert "".join(printed) == "[0,1,2]"


def test_a_thread_that_waits_for_the_end_of_its_work_gets_it():
    printed = run_script(
        RUNNING
        + """
threading.Thread(target=lambda: print(queued.result(5).out)).start()
threading.Timer(0.2, kernels.open).start()
""",
        timeout=PATIENCE,
    )
    assert printed == ["1"]


def test_a_loop_that_ends_cancels_what_its_tasks_wait_for():
    printed = run_script(
        """
kernels = Kernels()
actor = FlashAttnActor.start(FlashAttnProps(max_in_flight=1), kernels)
pendings = []

async def main():
    for number in range(3):
        pendings.append(actor.ask(message(number)))
        task = asyncio.create_task(reply_to(pendings[-1]))
        pendings.append(task)
    await asyncio.to_thread(kernels.wait_launched)

asyncio.run(main())
print(actor.stats().errors, actor.stats().in_flight)
""",
        timeout=PATIENCE,
    )
    assert "".join(printed) == "{'AskCancelledError':3}1"


def test_a_loop_that_is_left_without_its_tasks_ends():
    printed = run_script(
        RUNNING
        + """
loop = asyncio.new_event_loop()
task = loop.create_task(reply_to(queued))
loop.run_until_complete(asyncio.sleep(0))
task._log_destroy_pending = False
loop.close()
print("closed")
""",
        timeout=PATIENCE,
    )
    assert printed == ["closed"]


def test_actors_that_nobody_stopped_are_stopped_at_the_end():
    printed = run_script(
        """
import atexit
from flashactor.service import live_actors
actors = [FlashAttnActor.start(FlashAttnProps(label=str(n)), Kernels()) for n in range(3)]
actors[1].stop()
print(*[actor.props.label for actor in live_actors()])
pendings = [actor.ask(message(0)) for actor in actors]
atexit._run_exitfuncs()
print(len(live_actors()), *[type(pending.error).__name__ for pending in pendings])
""",
        timeout=PATIENCE,
    )
    assert printed == ["0", "2", "0", *["ActorStoppedError"] * 3]


def test_an_actor_that_is_stuck_in_a_launch_does_not_keep_the_program():
    run_script(
        """
class Stuck(Kernels):
    def submit(self, work, done):
        super().submit(work, done)
        threading.Event().wait()

kernels = Stuck()
actor = FlashAttnActor.start(FlashAttnProps(), kernels)
actor.ask(message(0))
kernels.wait_launched()
""",
        timeout=PATIENCE,
    )


def test_no_thread_is_needed_to_stop(start, monkeypatch):
    """Python 3.12 starts none while the interpreter exits."""
    actor, kernels = start()
    pending = actor.ask(message(0))
    kernels.wait_launched()
    monkeypatch.setattr(incarnation, "deadlines", Deadlines())
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        actor.stop(drain=False)
    assert isinstance(pending.error, ActorStoppedError)


def test_an_ask_whose_deadline_nobody_can_keep_is_answered_so(start, monkeypatch):
    actor, kernels = start()
    monkeypatch.setattr(address, "deadlines", Deadlines())
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        pending = actor.ask(message(0), timeout=5.0)
    assert isinstance(pending.error, ActorFailedError)
    assert pending.error.retry_safe
    actor.ask(message(1), timeout=PATIENCE)
    assert kernels.wait_launched() == [1]


def test_deadlines_hold_again_when_there_are_threads_again(monkeypatch):
    class Timed:
        settled, expired = False, threading.Event()

        def expire(self):
            self.expired.set()

    deadlines = Deadlines()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            deadlines.add(0.0, Timed())
    deadlines.add(0.0, Timed())
    assert Timed.expired.wait(PATIENCE)


def refuse(thread):
    raise RuntimeError("can't start new thread")


# Ctrl-C.

INTERRUPT_SOON = """
def interrupt(when):
    def kill():
        wait_until(when)
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=kill).start()
"""


def test_ctrl_c_in_result_leaves_the_request_and_the_reply():
    printed = run_script(
        INTERRUPT_SOON
        + RUNNING
        + """
interrupt(lambda: queued._threads)
try:
    queued.result()
except KeyboardInterrupt:
    print("interrupted", queued.done, queued._threads)
kernels.open()
print(queued.result(5).out)
actor.stop()
""",
        timeout=PATIENCE,
    )
    assert printed == ["interrupted", "False", "[]", "1"]


def test_ctrl_c_in_stop_leaves_it_stopping():
    printed = run_script(
        INTERRUPT_SOON
        + RUNNING
        + """
interrupt(lambda: not actor.is_alive)
try:
    actor.stop(None)
except KeyboardInterrupt:
    print("interrupted", queued.done, actor.is_alive)
kernels.open()
actor.stop()
print(queued.result(0).out)
""",
        timeout=PATIENCE,
    )
    assert printed == ["interrupted", "False", "False", "1"]


def test_ctrl_c_in_a_with_block_answers_everybody():
    printed = run_script(
        INTERRUPT_SOON
        + """
kernels = Kernels()
try:
    with FlashAttnActor.start(FlashAttnProps(), kernels) as actor:
        pending = actor.ask(message(0))
        interrupt(lambda: pending._threads)
        pending.result()
except KeyboardInterrupt:
    print("interrupted", type(pending.error).__name__)
""",
        timeout=PATIENCE,
    )
    assert printed == ["interrupted", "ActorStoppedError"]


def test_ctrl_c_in_ask_many_takes_all_messages_back():
    printed = run_script(
        INTERRUPT_SOON
        + """
kernels = Kernels()
actor = FlashAttnActor.start(FlashAttnProps(max_in_flight=1, mailbox_size=2), kernels)
interrupt(lambda: actor.stats().waiting == 1)
try:
    actor.ask_many(message(number) for number in range(9))
except KeyboardInterrupt:
    print(actor.stats().errors, actor.stats().pending)
""",
        timeout=PATIENCE,
    )
    assert "".join(printed) == "{'AskCancelledError':4}0"


def test_ctrl_c_in_a_coroutine_cancels_and_closes():
    printed = run_script(
        INTERRUPT_SOON
        + """
kernels = Kernels()

async def main():
    async with FlashAttnActor.start(FlashAttnProps(), kernels) as actor:
        held.append(actor.ask(message(0)))
        interrupt(lambda: held[0]._wakers)
        await held[0]

held = []
try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("interrupted", type(held[0].error).__name__)
""",
        timeout=PATIENCE,
    )
    assert printed == ["interrupted", "AskCancelledError"]


def test_ctrl_c_between_the_entry_of_a_message_and_its_delivery(start, monkeypatch):
    actor, _ = start()

    def interrupted(ask):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(actor._mailbox, "put", interrupted)
        with pytest.raises(KeyboardInterrupt):
            actor.ask(message(0))
    assert actor.stats().errors == {"AskCancelledError": 1}
    actor.stop()
    assert actor.stats().pending == 0


def test_ctrl_c_that_nobody_catches_ends_the_program():
    code = RUNNING + "print('waits', flush=True)\nqueued.result()"
    with start_script(code) as process:
        try:
            assert process.stdout.readline() == "waits\n"
            process.send_signal(signal.SIGINT)
            _, complaints = process.communicate(timeout=PATIENCE)
        except BaseException:
            process.kill()
            raise
    assert process.returncode == -signal.SIGINT
    assert complaints.splitlines()[-1] == "KeyboardInterrupt"
    assert "Exception ignored" not in complaints
