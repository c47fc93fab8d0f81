"""What holds for all tests."""

import signal

from hypothesis import settings

# A shell that starts the tests in the background has them ignore Ctrl-C, and the processes that they start
# inherit that; some tests are about Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run, however slow the machine is just then.
settings.register_profile("flashactor", deadline=None, derandomize=True, database=None)
settings.load_profile("flashactor")
