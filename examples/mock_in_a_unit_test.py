"""How a unit test checks what your code asks for, without a GPU and without computing anything."""

import asyncio

from flashactor import DType, Fa2FwdRequest, FlashAttnActor, FlashAttnMsg, MaskKind, SmArch
from flashactor.errors import MockModeError
from flashactor.executors.base import Outputs, Work
from flashactor.executors.mock import MockExecutor


async def attend_with_window(actor: FlashAttnActor, window: int) -> object:
    """The code under test: it should ask for a sliding window on Hopper."""
    request = Fa2FwdRequest(SmArch.SM90A, DType.BF16, 128, 8, MaskKind.sliding_causal(window))
    return (await actor.ask(FlashAttnMsg.forward(request))).out


def test_it_asks_for_the_window() -> None:
    """A plain mock answers every ask with MockModeError and keeps what it saw."""
    with FlashAttnActor.start(executor="mock") as actor:
        try:
            asyncio.run(attend_with_window(actor, 4096))
        except MockModeError as error:
            print(f"as expected: {error}")
        assert [work.kernel_name for work in actor.seen] == [
            "flashactor::fa3::fwd<bf16, 128, causal>_sw4096_gqa8"
        ]


def test_it_returns_the_output() -> None:
    """A scripted mock answers with what the test wants."""

    def script(work: Work) -> Outputs:
        return Outputs(out=f"output of {work.key.sliding_window}")

    with FlashAttnActor.start(executor=MockExecutor(script)) as actor:
        assert asyncio.run(attend_with_window(actor, 128)) == "output of 128"


if __name__ == "__main__":
    test_it_asks_for_the_window()
    test_it_returns_the_output()
    print("both tests passed")
