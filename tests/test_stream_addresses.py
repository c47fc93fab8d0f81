"""The address of a caller's stream, from every kind of object that stands for one."""

from types import SimpleNamespace

import pytest

from flashactor.errors import OperandError
from flashactor.streams import stream_address


class ProtocolStream:
    """A stream of cuda.core's protocol."""

    def __init__(self, answer):
        self._answer = answer

    def __cuda_stream__(self):
        return self._answer


@pytest.mark.parametrize(
    ("stream", "address"),
    [
        (0, 0),
        (0x7000, 0x7000),
        (ProtocolStream((0, 0x8000)), 0x8000),
        (SimpleNamespace(__cuda_stream__=(0, 0x8000)), 0x8000),
        (SimpleNamespace(__cuda_stream__=(0, 0x8000), cuda_stream=1 << 20), 0x8000),
        (SimpleNamespace(cuda_stream=0x9000), 0x9000),
        (SimpleNamespace(ptr=0xA000), 0xA000),
    ],
    ids=["default", "number", "method", "attribute", "protocol first", "torch", "cupy"],
)
def test_the_address(stream, address):
    assert stream_address(stream) == address


@pytest.mark.parametrize(
    ("stream", "got"),
    [
        (None, "None"),
        (True, "True"),
        (-1, "-1"),
        (1 << 64, str(1 << 64)),
        ("7000", "'7000'"),
        (1.5, "1.5"),
        (SimpleNamespace(ptr="x"), "namespace(ptr='x')"),
        (2, "the per-thread default stream"),
        (SimpleNamespace(ptr=2), "the per-thread default stream"),
        (ProtocolStream((1, 0x8000)), "version 1 of __cuda_stream__"),
    ],
)
def test_what_is_no_stream_is_refused(stream, got):
    with pytest.raises(OperandError) as raised:
        stream_address(stream)
    assert (raised.value.field, raised.value.got) == ("stream", got)


@pytest.mark.parametrize("answer", [None, 0x8000, (0,), (0, 1, 2)])
def test_a_protocol_that_answers_no_pair_is_refused(answer):
    with pytest.raises(OperandError, match="from __cuda_stream__ of"):
        stream_address(ProtocolStream(answer))
