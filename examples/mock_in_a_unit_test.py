"""How a unit test checks what your code asks for, without a GPU and without computing anything.

With pytest, the fixtures flash_actor, flash_script and flash_recorder save the first lines: docs/testing.md.
"""

import asyncio

from flashactor import DType, Fa2FwdRequest, FlashAttnActor, FlashAttnMsg, MaskKind, SmArch
from flashactor.errors import FlashAttnError, OutOfMemoryError
from flashactor.testing import Fault, FaultInjectingExecutor, Recorder, ScriptedExecutor, matching


async def attend_with_window(actor: FlashAttnActor, window: int) -> object:
    """The code under test: a sliding window on Hopper, and one more try where that is safe."""
    request = Fa2FwdRequest(SmArch.SM90A, DType.BF16, 128, 8, MaskKind.sliding_causal(window))
    message = FlashAttnMsg.forward(request)
    try:
        return (await actor.ask(message)).out
    except FlashAttnError as error:
        if not error.retry_safe:
            raise
        return (await actor.ask(message)).out


def test_it_asks_for_the_window() -> None:
    """A recorder around a script: what is answered, and what was asked for."""
    recorder = Recorder()
    script = ScriptedExecutor()
    script.reply(out="narrow", when=matching(sliding_window=128))
    script.reply(out="wide")
    with FlashAttnActor.start(executor=recorder.watch(script)) as actor:
        assert asyncio.run(attend_with_window(actor, 128)) == "narrow"
        assert asyncio.run(attend_with_window(actor, 4096)) == "wide"
    recorder.assert_asked(Fa2FwdRequest, times=1, sliding_window=4096, head_dim=128)
    recorder.assert_asked(kernel="flashactor::fa3::fwd<bf16, 128, causal>_sw128_gqa8", times=1)
    recorder.assert_no_more()


def test_it_asks_again_when_memory_is_short() -> None:
    """A device that has no memory the first time."""
    recorder = Recorder()
    device = FaultInjectingExecutor(ScriptedExecutor().reply(out="output"), Fault.out_of_memory(nth=1))
    with FlashAttnActor.start(executor=recorder.watch(device)) as actor:
        assert asyncio.run(attend_with_window(actor, 128)) == "output"
    first, second = recorder
    assert isinstance(first.error, OutOfMemoryError)
    assert second.error is None
    print(f"asked twice:\n  {first}\n  {second}")


if __name__ == "__main__":
    test_it_asks_for_the_window()
    test_it_asks_again_when_memory_is_short()
    print("both tests passed")
