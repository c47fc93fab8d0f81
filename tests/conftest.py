"""What holds for all tests."""

import signal

# A shell that starts the tests in the background has them ignore Ctrl-C, and the processes that they start
# inherit that; some tests are about Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
