"""Static checks of what no execution in order can show: registers that an asynchronous wgmma owns."""

from __future__ import annotations

from flashactor.emulator.translate.translator import Kernel


def require_no_hazards(kernel: Kernel) -> None:
    """Refuse a kernel that touches registers of a wgmma in flight.

    Raises:
        AsyncHazardError: it does.
    """
