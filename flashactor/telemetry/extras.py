"""Libraries that not everyone has: a clear error in place of an ImportError."""

from __future__ import annotations

from importlib import import_module

from flashactor.errors import DeviceUnavailableError


def require(module: str, extra: str) -> None:
    """See to it that a library of one of the package's extras is there, before it is imported.

    Raises:
        DeviceUnavailableError: it is not installed, or cannot be loaded.
    """
    try:
        import_module(module)
    except ImportError as error:
        raise DeviceUnavailableError(
            field=module,
            got=str(error),
            expected=f"the library that the extra {extra!r} installs",
            remedy=f"pip install 'flashactor[{extra}]'",
        ) from error
