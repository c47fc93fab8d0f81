"""The error tree: complete, documented, picklable, and with a useful message."""

import inspect
import pickle
import re

import pytest

from flashactor import errors
from flashactor.errors import CompileError, FlashAttnError, NoKernelError

ALL_ERRORS = [
    error
    for _, error in inspect.getmembers(errors, inspect.isclass)
    if issubclass(error, FlashAttnError) and error.__module__ == errors.__name__
]


def make(error_type):
    extra = {"reasons": {"sm80_mma": ("has no window",)}} if error_type is NoKernelError else {}
    return error_type(field="head_dim", got=100, expected="a multiple of 8", remedy="pad it", **extra)


@pytest.mark.parametrize("error_type", ALL_ERRORS, ids=lambda e: e.__name__)
def test_says_field_got_expected_remedy(error_type):
    error = make(error_type)
    assert (error.field, error.got, error.expected, error.remedy) == (
        "head_dim",
        100,
        "a multiple of 8",
        "pad it",
    )
    assert str(error).startswith("head_dim: got 100; expected a multiple of 8. Remedy: pad it.")


@pytest.mark.parametrize("error_type", ALL_ERRORS, ids=lambda e: e.__name__)
def test_survives_pickling(error_type):
    error = make(error_type)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is error_type
    assert str(copy) == str(error)
    assert copy.__dict__ == error.__dict__


def test_compile_error_keeps_its_log_through_pickling():
    error = CompileError("source", "x", "y", "z", log="fwd.cu(3): error", source_line="fwd.cu(3)")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.log, copy.source_line) == ("fwd.cu(3): error", "fwd.cu(3)")


def test_no_kernel_error_lists_the_reasons():
    assert str(make(NoKernelError)).endswith("Reasons: sm80_mma: has no window.")


def test_the_tree_in_the_docstring_is_the_tree_in_the_code():
    drawn = {}
    path = []
    for line in errors.__doc__.splitlines():
        match = re.match(r"^    ([│├└─ ]*)(\w+Error)\b", line)
        if match:
            depth = len(match[1]) // 4
            path = [*path[:depth], match[2]]
            drawn[match[2]] = path[-2] if depth else None
    actual = {
        error.__name__: None if error is FlashAttnError else error.__mro__[1].__name__ for error in ALL_ERRORS
    }
    assert drawn == actual


def test_standard_exceptions_where_callers_expect_them():
    assert issubclass(errors.AskTimeoutError, TimeoutError)
    assert issubclass(errors.UnknownImplementationError, ValueError)
