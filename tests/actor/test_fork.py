"""Processes that fork while an actor runs: the child is answered, and the parent is unharmed."""

import pytest
from actor_tools import run_script

IN_CHILD = """
def in_child(function, *arguments):
    "What a function says in a forked child, which must not hang."
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        try:
            said = function(*arguments)
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writer, str(said).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as words:
        said = words.read()
    assert os.waitpid(child, 0)[1] == 0, "the child hung"
    return said

def error_of(pending):
    try:
        pending.result(5)
    except FlashAttnError as error:
        return f"{type(error).__name__}-{error.retry_safe}"
    return "a reply"
"""

RUNNING = """
kernels = Kernels()
actor = FlashAttnActor.start(FlashAttnProps(max_in_flight=1), kernels)
launched, queued = actor.ask(message(0)), actor.ask(message(1))
kernels.wait_launched()
"""


def run(code):
    return run_script(IN_CHILD + code)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        ("error_of(actor.ask(message(2)))", "ActorStoppedError-True"),
        ("actor.ask(message(2)).done", "True"),
        ("error_of(actor.ask(message(2)).launched)", "ActorStoppedError-True"),
        ("error_of(launched), error_of(queued)", "('ActorStoppedError-True', 'ActorStoppedError-True')"),
        (
            "asyncio.run(asyncio.wait_for(reply_to(queued), 5))",
            "ActorStoppedError: actor: got an actor of the ",
        ),
        ("actor.tell(message(2))", "None"),
        ("queued.cancel()", "False"),
        ("actor.is_alive", "False"),
        ("actor.stop()", "None"),
        ("asyncio.run(actor.aclose())", "None"),
        ("actor.stats().pending", "0"),
    ],
)
def test_a_child_is_answered_that_the_actor_is_the_parents(ask, said):
    printed = run(
        RUNNING
        + f"""
print(in_child(lambda: ({ask}))[:{len(said)}])
kernels.open()
print([reply.result(5).out for reply in (launched, queued, actor.ask(message(7)))])
actor.stop()
"""
    )
    assert " ".join(printed) == f"{said.strip()} [0, 1, 7]"


def test_an_actor_that_is_started_in_the_child_works():
    printed = run(
        RUNNING
        + """
def use_another():
    with FlashAttnActor.start(FlashAttnProps(), Kernels(held=False)) as mine:
        late = mine.ask(message(3), timeout=5)
        mine.ask(message(1), timeout=0)
        awaited = asyncio.run(reply_to(mine.ask(message(4))))
        return [mine.ask(message(2)).result(5).out, late.result(5).out, awaited.out]

print(in_child(use_another))
kernels.open()
print(queued.result(5).out)
"""
    )
    assert " ".join(printed) == "[2, 3, 4] 1"


def test_callbacks_and_observers_are_the_parents():
    """The child would do twice what they do, perhaps with locks that nobody there holds."""
    printed = run(
        """
from flashactor.telemetry.events import Observer
heard = []
class Hearing(Observer):
    def settled(self, event):
        heard.append("observed")
kernels = Kernels()
actor = FlashAttnActor.start(FlashAttnProps(observers=(Hearing(),)), kernels)
pending = actor.ask(message(0))
pending.add_done_callback(lambda reply: heard.append("called"))
actor.tell(message(1))
kernels.wait_launched(2)
print(in_child(lambda: (error_of(pending), heard)))
kernels.finish(0)
print(heard)
kernels.open()
"""
    )
    assert " ".join(printed) == "('ActorStoppedError-True', []) ['observed', 'called']"


@pytest.mark.parametrize("wait", ["error_of(pending)", "asyncio.run(asyncio.wait_for(reply_to(pending), 5))"])
def test_a_reply_that_was_just_being_given_is_answered_in_the_child(wait):
    """Its account is closed, but it is not settled; the thread that was about to do that is the parent's."""
    printed = run(
        f"""
from flashactor.telemetry.events import Observer
entered, leave = threading.Event(), threading.Event()
class Slow(Observer):
    def settled(self, event):
        entered.set()
        leave.wait(10)
actor = FlashAttnActor.start(FlashAttnProps(observers=(Slow(),)), Kernels(held=False))
pending = actor.ask(message(0))
entered.wait(10)
print(in_child(lambda: {wait})[:17])
leave.set()
print(pending.result(5).out)
"""
    )
    assert printed == ["ActorStoppedError", "0"]


@pytest.mark.parametrize(
    "lock",
    [
        "actor._life._lock",
        "actor._life._ended._cond",
        "actor._ledger._lock",
        "queued._lock",
        "launching._lock",
    ],
)
def test_a_lock_that_another_thread_holds_stops_nobody_in_the_child(lock):
    printed = run(
        RUNNING
        + f"""
launching = queued.launched

def use():
    actor.stop()
    return error_of(queued), error_of(launching), error_of(actor.ask(message(3)))

with {lock}:
    print(in_child(use))
kernels.open()
print(queued.result(5).out)
"""
    )
    assert " ".join(printed) == str(("ActorStoppedError-True",) * 3) + " 1"


def test_a_fork_from_a_callback():
    printed = run(
        RUNNING
        + """
def use_another():
    mine = FlashAttnActor.start(FlashAttnProps(max_in_flight=1, mailbox_size=1), Kernels(held=False))
    return [mine.ask(message(number)).result(5).out for number in range(20)][-1]

said = []
launched.add_done_callback(lambda reply: said.append(in_child(use_another)))
kernels.open()
queued.result(5)
print(said)
"""
    )
    assert printed == ["['19']"]


def test_fifty_forks_while_other_threads_ask():
    printed = run(
        """
actor = FlashAttnActor.start(FlashAttnProps(mailbox_size=4), Kernels(held=False))
over, counts = threading.Event(), []

def ask():
    number = 0
    while not over.is_set():
        pending = actor.ask(message(number % 100), timeout=30)
        assert pending.result(30).out == number % 100
        number += 1
    counts.append(number)

def use():
    own = FlashAttnActor.start(FlashAttnProps(), Kernels(held=False))
    return error_of(last), error_of(actor.ask(message(1))), own.ask(message(5)).result(5).out

threads = [threading.Thread(target=ask) for _ in range(3)]
for thread in threads:
    thread.start()
answers = set()
for _ in range(50):
    last = actor.ask(message(7))
    said = in_child(use)
    answers.add(said.replace("'a reply'", "'ActorStoppedError-True'"))
    last.result(30)
over.set()
for thread in threads:
    thread.join()
actor.stop()
stats = actor.stats()
print(answers, stats.received == sum(counts) + 50 == stats.completed)
"""
    )
    assert " ".join(printed) == '{"(' + "'ActorStoppedError-True', " * 2 + '5)"} True'


def test_a_process_of_multiprocessing_that_forks():
    printed = run(
        RUNNING
        + """
import multiprocessing

def work(answers):
    answers.put(error_of(actor.ask(message(2))))
    with FlashAttnActor.start(FlashAttnProps(), Kernels(held=False)) as mine:
        answers.put(mine.ask(message(3)).result(5).out)

context = multiprocessing.get_context("fork")
answers = context.Queue()
process = context.Process(target=work, args=(answers,))
process.start()
print(answers.get(timeout=10), answers.get(timeout=10))
process.join(10)
print(process.exitcode)
kernels.open()
print(queued.result(5).out)
"""
    )
    assert printed == ["ActorStoppedError-True", "3", "0", "1"]
