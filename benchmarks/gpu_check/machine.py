"""What machine this is, for the report."""

from __future__ import annotations

from benchmarks import report
from benchmarks.gpu_check.report import Machine
from flashactor.executors.cuda_driver import device_arch, device_name, driver_version


def this_machine() -> Machine:
    """The first device, its driver, and the versions of what takes part.

    Raises:
        DeviceUnavailableError: there is no device that kernels run on.
    """
    facts = report.machine()
    versions = {"python": facts["python"], **facts["packages"]}
    return Machine(device_name(), device_arch().target, driver_version(), facts["cpu"], versions)
