"""Bundles: the same bytes everywhere, and whatever is not as it was written is refused."""

import os
import random
import subprocess
import zipfile
from io import BytesIO

import pytest
from cache_tools import files_below, modes_apply_to_root, small_spec

from flashactor.cache import bundle as bundle_module
from flashactor.cache import cubin_cache as cache_module
from flashactor.cache.bundle import SUMS, BundleFile, write_bundle
from flashactor.cache.record import cache_key
from flashactor.compiler.nvrtc import options
from flashactor.errors import BundleError, CacheCorruptError, CachePermissionError, OutputError

SPECS = [small_spec(number) for number in range(3)]
pytestmark = pytest.mark.usefixtures("fake_compiler")


@pytest.fixture
def kernels(make_cache):
    """Kernels of a cache, by key."""
    made = (make_cache("origin").get_or_compile(spec) for spec in SPECS)
    return {kernel.record.key: kernel for kernel in made}


@pytest.fixture
def bundle(tmp_path, kernels):
    """A bundle of them."""
    write_bundle(tmp_path / "kernels.zip", kernels.values())
    return tmp_path / "kernels.zip"


def members_of(path):
    with zipfile.ZipFile(path) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def write_members(path, members, compression=zipfile.ZIP_STORED):
    """An archive as ``zip`` would make it."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, compression)


def add_name(members, name, content=b"x"):
    """The members with one more, which SHA256SUMS knows."""
    from hashlib import sha256

    sums = members[0][1] + f"{sha256(content).hexdigest()}  {name}\n".encode()
    return [(SUMS, sums), *members[1:], (name, content)]


def cubins(kernels):
    return {kernel.record.key: kernel.cubin for kernel in kernels}


def test_what_is_written_is_read(bundle, kernels):
    read = BundleFile(bundle).read()
    assert cubins(read) == cubins(kernels.values())
    assert [kernel.record.key for kernel in read] == BundleFile(bundle).list_keys() == sorted(kernels)
    for kernel in read:
        assert kernel.record == kernels[kernel.record.key].record.without_history()
        assert kernel.source == "bundle"
        assert BundleFile(bundle).entry(kernel.record.key).record == kernel.record
    assert BundleFile(bundle).load("0" * 64) is None


def test_a_bundle_of_nothing_is_one(tmp_path):
    write_bundle(tmp_path / "empty.zip", [])
    assert BundleFile(tmp_path / "empty.zip").read() == []


def test_two_caches_make_the_same_bytes(tmp_path, make_cache, bundle, monkeypatch):
    monkeypatch.setattr(cache_module, "now", lambda: "2031-01-01T00:00:00+00:00")
    other = make_cache("elsewhere")
    for spec in reversed(SPECS):
        other.get_or_compile(spec)
    again = [make_cache("elsewhere").get_or_compile(spec) for spec in random.sample(SPECS, 3)]
    written = write_bundle(tmp_path / "again.zip", again)
    assert written == (tmp_path / "again.zip").read_bytes() == bundle.read_bytes()


def test_the_sums_are_what_sha256sum_checks(tmp_path, bundle):
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(tmp_path / "unpacked")
    said = subprocess.run(
        ["sha256sum", "--strict", "-c", SUMS],
        cwd=tmp_path / "unpacked",
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.count(": OK\n") == 2 * len(SPECS)


KEY = "0" * 64


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "records/../../evil.json",
        f"records/../{KEY}.json",
        f"cubins/../cubins/{KEY}.cubin",
        f"/cubins/{KEY}.cubin",
        "/etc/passwd",
        f"cubins/{KEY[1:]}.cubin",
        f"cubins/{KEY[1:]}A.cubin",
        f"cubins/{KEY}.so",
        f"records\\{KEY}.json",
        "readme",
    ],
)
@pytest.mark.parametrize("known", [False, True])
def test_a_name_that_is_not_made_of_a_key_is_refused(name, known, bundle, tmp_path):
    members = members_of(bundle)
    write_members(bundle, add_name(members, name) if known else [*members, (name, b"x")])
    before = files_below(tmp_path)
    with pytest.raises(BundleError, match=r"kernels\.zip"):
        BundleFile(bundle).read()
    if known:
        with pytest.raises(BundleError):
            BundleFile(bundle).list_keys()
    assert files_below(tmp_path) == before


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("which", [0, 1, -1])
def test_a_name_twice_is_refused(which, bundle):
    members = members_of(bundle)
    write_members(bundle, [*members, members[which]])
    with pytest.raises(BundleError):
        BundleFile(bundle).read()


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_members_are_refused(compression, bundle):
    write_members(bundle, members_of(bundle), compression)
    with pytest.raises(BundleError, match="compressed"):
        BundleFile(bundle).read()


def test_a_member_that_is_too_large_is_refused(bundle, kernels, monkeypatch):
    largest = max(len(content) for _, content in members_of(bundle))
    monkeypatch.setattr(bundle_module, "LARGEST_MEMBER", largest - 1)
    with pytest.raises(BundleError, match="too large"):
        BundleFile(bundle).read()
    monkeypatch.setattr(bundle_module, "LARGEST_MEMBER", largest)
    assert cubins(BundleFile(bundle).read()) == cubins(kernels.values())


@pytest.mark.parametrize("lost", range(7))
def test_a_member_that_is_missing_is_noticed(lost, bundle):
    members = members_of(bundle)
    del members[lost]
    write_members(bundle, members)
    with pytest.raises(BundleError):
        BundleFile(bundle).read()


def test_members_of_two_kernels_that_changed_places_are_noticed(bundle):
    members = members_of(bundle)
    (first, one), (second, two) = members[1:3]
    write_members(bundle, [members[0], (first, two), (second, one), *members[3:]])
    with pytest.raises(BundleError):
        BundleFile(bundle).read()


def test_a_record_of_another_key_is_refused_though_the_sums_fit(bundle, kernels):
    members = members_of(bundle)
    content = next(content for name, content in members if name.startswith("records/"))
    members = [(SUMS, b"")]
    members = add_name(members, f"records/{KEY}.json", content)
    members = add_name(members, f"cubins/{KEY}.cubin", next(iter(kernels.values())).cubin)
    write_members(bundle, members)
    with pytest.raises(BundleError):
        BundleFile(bundle).read()
    with pytest.raises(CacheCorruptError):
        BundleFile(bundle).load(KEY)


@pytest.mark.parametrize("content", [b"", b"not a bundle\n", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_archive_or_has_no_sums_is_refused(content, bundle):
    bundle.write_bytes(content)
    for look in (BundleFile(bundle).read, BundleFile(bundle).list_keys, lambda: BundleFile(bundle).load(KEY)):
        with pytest.raises(BundleError, match=r"kernels\.zip"):
            look()


def read_everything(path):
    """All kernels, by both ways of reading; None where a way refuses."""
    try:
        whole = cubins(BundleFile(path).read())
    except BundleError:
        whole = None
    single = {}
    try:
        for key in BundleFile(path).list_keys():
            try:
                kernel = BundleFile(path).load(key)
            except CacheCorruptError:
                continue
            single[key] = kernel and kernel.cubin
    except BundleError:
        pass
    return whole, single


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_bit_is_refused_or_harmless(seed, bundle, kernels):
    content, expected, chance = bundle.read_bytes(), cubins(kernels.values()), random.Random(seed)
    directory = content.index(b"PK\x01\x02")
    places = [chance.randrange(len(content)) for _ in range(100)]
    places += [
        chance.randrange(directory, len(content)) for _ in range(200)
    ]  # the fewest bytes, the most sense
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << chance.randrange(8)
        bundle.write_bytes(damaged)
        whole, single = read_everything(bundle)
        assert whole is None or whole == expected, place
        assert single.items() <= expected.items(), place


def test_a_bundle_that_was_cut_off_is_refused(bundle):
    content = bundle.read_bytes()
    lengths = {*range(0, len(content), 97), *range(len(content) - 70, len(content))}
    for length in lengths:
        bundle.write_bytes(content[:length])
        assert read_everything(bundle) == (None, {}), length


def test_a_bundle_that_is_cut_off_while_it_is_open_serves_nothing_else(bundle, kernels):
    opened = BundleFile(bundle)
    keys = opened.list_keys()
    with bundle.open("r+b") as file:
        file.truncate(300)
    for key in keys:
        with pytest.raises(CacheCorruptError):
            opened.load(key)


def test_forked_processes_read_at_the_same_time(bundle, kernels):
    opened, expected = BundleFile(bundle), cubins(kernels.values())
    assert opened.list_keys() == sorted(expected)
    children = []
    for _ in range(4):
        if (child := os.fork()) == 0:
            sound = all(opened.load(key).cubin == expected[key] for _ in range(200) for key in expected)
            os._exit(0 if sound else 1)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4


def test_a_bundle_that_another_takes_the_place_of_serves_the_other(bundle, kernels, tmp_path):
    opened = BundleFile(bundle)
    first, *_, last = opened.list_keys()
    write_bundle(bundle, [kernels[last]])
    assert opened.load(first) is None
    assert opened.load(last).cubin == kernels[last].cubin


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_regular_file_is_refused_at_once(make, tmp_path):
    make(tmp_path / "kernels.zip")
    for look in (BundleFile(tmp_path / "kernels.zip").read, BundleFile(tmp_path / "kernels.zip").list_keys):
        with pytest.raises(BundleError, match="no regular file"):
            look()


def test_an_error_says_once_what_is_wrong(bundle):
    write_members(bundle, members_of(bundle), zipfile.ZIP_DEFLATED)
    with pytest.raises(BundleError) as caught:
        BundleFile(bundle).list_keys()
    assert str(caught.value).count("Remedy") == 1


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path, kernels):
    (tmp_path / "locked").mkdir(mode=0o500)
    with modes_apply_to_root(), pytest.raises(OutputError, match=r"locked/kernels\.zip: Permission denied"):
        write_bundle(tmp_path / "locked" / "kernels.zip", kernels.values())
    assert not files_below(tmp_path / "locked")


def test_a_bundle_is_a_layer_as_a_file_and_as_a_folder(bundle, make_cache, fake_compiler, tmp_path):
    fake_compiler.clear()
    before = files_below(tmp_path / "origin")
    for layer in (bundle, tmp_path / "origin"):
        cache = make_cache("unused", bundles=[layer])
        assert [cache.get_or_compile(spec).source for spec in SPECS] == ["bundle"] * 3
        assert cache.get_or_compile(SPECS[0]).source == "memory"
        assert (cache.counts().bundle_hits, cache.counts().memory_hits) == (3, 1)
        assert cache.records() == []
    assert fake_compiler == []
    assert not (tmp_path / "unused").exists()
    assert files_below(tmp_path / "origin") == before


def test_a_folder_that_is_a_bundle_is_never_changed(tmp_path, make_cache, kernels):
    origin = tmp_path / "origin"
    victim = next(path for path in files_below(origin / "cubins"))
    victim.write_bytes(b"damaged")
    before = {path: path.stat().st_mtime_ns for path in files_below(origin)}
    cache = make_cache("fresh", bundles=[origin], max_bytes=1)
    assert sorted(cache.get_or_compile(spec).source for spec in SPECS) == ["bundle", "bundle", "compiled"]
    assert {path: path.stat().st_mtime_ns for path in files_below(origin)} == before


def test_the_writable_folder_comes_before_bundles(bundle, make_cache):
    cache = make_cache("origin", bundles=[bundle])
    assert cache.get_or_compile(SPECS[0]).source == "disk"


def damage_record_of(path, key):
    """Flip a byte of one kernel's record in a bundle."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        place = archive.getinfo(f"records/{key}.json").header_offset + 200
    content[place] ^= 1
    path.write_bytes(content)


def test_a_damaged_entry_of_a_bundle_is_logged_once_and_counted(bundle, make_cache, caplog, fake_compiler):
    cache = make_cache("fresh", bundles=[bundle])
    damage_record_of(bundle, cache.key(SPECS[0]))
    fake_compiler.clear()
    assert [cache.get_or_compile(spec).source for spec in SPECS] == ["compiled", "bundle", "bundle"]
    assert fake_compiler == SPECS[:1]
    assert cache.counts().damaged == 1
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert str(bundle) in caplog.text
    assert make_cache("fresh", bundles=[bundle]).get_or_compile(SPECS[0]).source == "disk"


def test_after_a_damaged_entry_the_next_bundle_is_asked(bundle, make_cache, tmp_path, fake_compiler, kernels):
    other = tmp_path / "other.zip"
    write_bundle(other, kernels.values())
    cache = make_cache("fresh", bundles=[bundle, other])
    damage_record_of(bundle, cache.key(SPECS[0]))
    fake_compiler.clear()
    assert cache.get_or_compile(SPECS[0]).source == "bundle"
    assert fake_compiler == []
    assert cache.counts().damaged == 1


def test_a_bundle_that_is_missing_costs_one_warning(make_cache, tmp_path, caplog):
    cache = make_cache("fresh", bundles=[tmp_path / "gone.zip"])
    assert [cache.get_or_compile(spec).source for spec in SPECS] == ["compiled"] * 3
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "gone.zip" in caplog.text


def test_a_layer_that_is_no_bundle_is_an_error(make_cache, tmp_path):
    (tmp_path / "text").write_text("not a bundle\n")
    with pytest.raises(BundleError, match="text"):
        make_cache("fresh", bundles=[tmp_path / "text"]).get_or_compile(SPECS[0])


def test_a_bundle_that_everyone_may_write_is_no_layer_unless_that_is_wanted(bundle, make_cache):
    bundle.chmod(0o666)
    with pytest.raises(CachePermissionError, match="everyone may write"):
        make_cache("fresh", bundles=[bundle]).get_or_compile(SPECS[0])
    assert make_cache("fresh", bundles=[bundle], shared=True).get_or_compile(SPECS[0]).source == "bundle"


def test_keys_depend_on_options(kernels):
    for kernel in kernels.values():
        record = kernel.record
        assert record.key == cache_key(record.source_digest, record.options, record.nvrtc_version)
    assert {kernel.record.options for kernel in kernels.values()} == {options(spec) for spec in SPECS}


def test_the_archive_has_no_times_and_no_owner(bundle):
    with zipfile.ZipFile(BytesIO(bundle.read_bytes())) as archive:
        for info in archive.infolist():
            assert info.date_time == (1980, 1, 1, 0, 0, 0)
            assert (info.extra, info.comment, info.compress_type) == (b"", b"", zipfile.ZIP_STORED)
            assert info.external_attr >> 16 == 0o100644
