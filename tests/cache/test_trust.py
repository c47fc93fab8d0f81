"""Who may write a cache: a cubin is code, so a folder that others may write is refused."""

import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest
from cache_tools import small_spec

from flashactor.cache import trust
from flashactor.cache.trust import require_private
from flashactor.errors import CachePermissionError
from flashactor.settings import Settings

SPEC = small_spec(1)
pytestmark = pytest.mark.usefixtures("fake_compiler")
PACKAGE_OWNER = 4141


@pytest.fixture(autouse=True)
def package(monkeypatch):
    """The installed package as the test wants it: nobody but its owner, somebody else, may write it."""
    found = SimpleNamespace(st_mode=stat.S_IFDIR | 0o755, st_uid=PACKAGE_OWNER, st_gid=PACKAGE_OWNER)
    monkeypatch.setattr(trust, "PACKAGE_ROOT", SimpleNamespace(stat=lambda: found))
    return found


@pytest.fixture
def give_away(monkeypatch):
    """A function that makes all below a folder look like another user's; only root could do it in fact."""
    real = Path.stat

    def give_away(folder, uid):
        def looks_given(path, **options):
            found = real(path, **options)
            if path == folder or folder in path.parents:
                return os.stat_result((*found[:4], uid, *found[5:10]))
            return found

        monkeypatch.setattr(Path, "stat", looks_given)

    return give_away


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "cache").mkdir(mode=0o700)
    return tmp_path / "cache"


@pytest.fixture
def groups(monkeypatch):
    """A function that says what the user's group and the folder's are."""

    def say(group_name, members, gid, name="me"):
        import grp
        import pwd

        monkeypatch.setattr(
            pwd, "getpwuid", lambda uid: SimpleNamespace(pw_uid=uid, pw_name=name, pw_gid=gid)
        )
        monkeypatch.setattr(
            grp, "getgrgid", lambda gid: SimpleNamespace(gr_gid=gid, gr_name=group_name, gr_mem=members)
        )

    return say


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o750, 0o555, 0o500])
def test_a_folder_that_only_its_owner_may_write_is_taken(mode, folder):
    folder.chmod(mode)
    require_private(folder)


@pytest.mark.parametrize("mode", [0o777, 0o757, 0o702, 0o1777])
@pytest.mark.parametrize("any_owner", [False, True])
def test_one_that_everyone_may_write_is_refused(mode, any_owner, folder):
    folder.chmod(mode)
    with pytest.raises(CachePermissionError, match="everyone may write") as caught:
        require_private(folder, any_owner=any_owner)
    error = caught.value
    assert str(folder) in error.got
    assert f"{mode:o}" in error.got
    for way_out in (f"chmod go-w {folder}", "FLASHACTOR_CACHE_DIR", "FLASHACTOR_CACHE_SHARED=1"):
        assert way_out in error.remedy


def test_the_remedy_helps(folder):
    folder.chmod(0o777)
    with pytest.raises(CachePermissionError):
        require_private(folder)
    folder.chmod(0o755)
    require_private(folder)


@pytest.mark.parametrize(
    ("name", "members", "accepted"),
    [("me", [], True), ("me", ["me"], True), ("me", ["me", "you"], False), ("staff", [], False)],
)
def test_a_group_may_write_if_it_is_the_users_own(name, members, accepted, folder, groups):
    groups(name, members, folder.stat().st_gid)
    folder.chmod(0o770)
    if accepted:
        require_private(folder)
    else:
        with pytest.raises(CachePermissionError, match=f"group {folder.stat().st_gid} may write"):
            require_private(folder)


def test_a_group_that_is_not_the_users_first_is_not_its_own(folder, groups):
    groups("me", [], folder.stat().st_gid + 1)
    folder.chmod(0o770)
    with pytest.raises(CachePermissionError):
        require_private(folder)


def test_a_user_without_a_name_has_no_group_of_its_own(folder, monkeypatch):
    import pwd

    def nobody(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    folder.chmod(0o770)
    with pytest.raises(CachePermissionError):
        require_private(folder)


def test_another_users_folder_is_refused_but_as_a_bundle(folder, give_away):
    give_away(folder, 4242)
    with pytest.raises(CachePermissionError, match="user 4242 owns"):
        require_private(folder)
    require_private(folder, any_owner=True)


def test_a_folder_of_the_user_and_of_root_is_taken(folder, give_away, monkeypatch):
    monkeypatch.setattr(trust.os, "geteuid", lambda: 4242)
    for owner in (4242, 0):
        give_away(folder, owner)
        require_private(folder)


def test_the_owner_of_the_package_may_own_the_cache(folder, give_away):
    give_away(folder, PACKAGE_OWNER)
    require_private(folder)


def test_a_group_that_may_write_the_package_may_write_the_cache(folder, package, groups):
    groups("staff", ["me", "other"], gid=folder.stat().st_gid)
    folder.chmod(0o775)
    with pytest.raises(CachePermissionError, match="group"):
        require_private(folder)
    package.st_mode, package.st_gid = stat.S_IFDIR | 0o775, folder.stat().st_gid
    require_private(folder)


def test_everyone_may_write_the_cache_of_a_package_that_everyone_may_write(folder, package):
    folder.chmod(0o777)
    package.st_mode = stat.S_IFDIR | 0o777
    require_private(folder)


def test_a_missing_folder_is_fine(tmp_path):
    require_private(tmp_path / "gone")


@pytest.mark.parametrize("within", [".", "records", "cubins"])
@pytest.mark.parametrize("ask", ["lookup", "get_or_compile"])
def test_a_cache_refuses_what_others_may_write(within, ask, make_cache, tmp_path, fake_compiler):
    make_cache().get_or_compile(SPEC)
    (tmp_path / "cache" / within).chmod(0o777)
    fake_compiler.clear()
    with pytest.raises(CachePermissionError, match="everyone may write"):
        getattr(make_cache(), ask)(SPEC)
    assert fake_compiler == []
    assert make_cache(shared=True).get_or_compile(SPEC).source == "disk"


def test_a_cache_refuses_an_empty_folder_that_others_may_write(make_cache, folder, fake_compiler):
    folder.chmod(0o777)
    with pytest.raises(CachePermissionError):
        make_cache().get_or_compile(SPEC)
    assert list(folder.iterdir()) == []
    assert make_cache(shared=True).get_or_compile(SPEC).source == "compiled"


def test_a_bundle_folder_that_everyone_may_write_is_refused(make_cache, tmp_path):
    make_cache("bundle").get_or_compile(SPEC)
    (tmp_path / "bundle").chmod(0o777)
    with pytest.raises(CachePermissionError):
        make_cache(bundles=[tmp_path / "bundle"]).get_or_compile(SPEC)


def test_a_bundle_may_have_another_owner(make_cache, tmp_path, give_away):
    make_cache("bundle").get_or_compile(SPEC)
    give_away(tmp_path / "bundle", 4242)
    assert make_cache(bundles=[tmp_path / "bundle"]).get_or_compile(SPEC).source == "bundle"
    with pytest.raises(CachePermissionError, match="user 4242 owns"):
        make_cache("bundle").lookup(SPEC)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_folder_that_the_cache_makes_is_private(umask, make_cache, tmp_path):
    before = os.umask(umask)
    try:
        make_cache("deep/er/cache").get_or_compile(SPEC)
    finally:
        os.umask(before)
    made = tmp_path / "deep/er/cache"
    modes = {name: stat.S_IMODE((made / name).stat().st_mode) for name in (".", "records", "cubins", "locks")}
    assert modes == dict.fromkeys(modes, 0o700)
    assert make_cache("deep/er/cache").get_or_compile(SPEC).source == "disk"


def test_the_environment_says_whether_a_folder_is_shared(folder):
    folder.chmod(0o777)
    environment = {"FLASHACTOR_CACHE_DIR": str(folder)}
    assert not Settings.from_environment(environment).cache_shared
    assert Settings.from_environment(environment | {"FLASHACTOR_CACHE_SHARED": "1"}).cache_shared
