import pytest


@pytest.fixture(params=["one-tile", "many-tiles"])
def tile_size(request, monkeypatch):
    """Runs a test with the usual tiles, and with the smallest ones, of 16 rows."""
    if request.param == "many-tiles":
        monkeypatch.setattr("flashactor.reference.tiles.TILE_ELEMENTS", 1)
