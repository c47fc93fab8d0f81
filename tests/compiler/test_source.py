"""Includes become text: in place, once, with marks that name no folder of this machine."""

import pytest

from flashactor.compiler.source import source_digest, sources_root, translation_unit
from flashactor.errors import CompileError


@pytest.fixture
def tree(tmp_path):
    """A function that writes files below a folder and returns the folder."""

    def write(**files):
        for name, text in files.items():
            path = tmp_path / "cu" / (name + ".cu")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return tmp_path / "cu"

    return write


def test_an_include_is_replaced_and_the_lines_are_marked(tree):
    root = tree(main='int a;\n  #  include "other.cu"  // why\nint c;\n', other="int b;\n")
    assert translation_unit("main.cu", root).splitlines() == [
        '#line 1 "main.cu"',
        "int a;",
        '#line 1 "other.cu"',
        "int b;",
        '#line 3 "main.cu"',
        "int c;",
    ]


def test_a_file_comes_once_and_loses_its_pragma(tree):
    root = tree(
        main='#include "a.cu"\n#include "b.cu"\n',
        a='#include "b.cu"\nint a;\n',
        b="#pragma once\nint b;\n",
    )
    text = translation_unit("main.cu", root)
    assert text.count("int b;") == 1
    assert "pragma" not in text
    lines = text.splitlines()
    assert lines[lines.index("int b;") - 2 :][:2] == ['#line 1 "b.cu"', ""]  # int b; is still line 2


def test_angle_brackets_and_comments_are_left_alone(tree):
    root = tree(main='#include <cuda.h>\n// #include "gone.cu"\n')
    assert translation_unit("main.cu", root).splitlines()[1:] == [
        "#include <cuda.h>",
        '// #include "gone.cu"',
    ]


def test_a_missing_include_names_file_and_line(tree):
    root = tree(main='#include "a.cu"\n', a='int a;\n#include "gone.cuh"\n')
    with pytest.raises(CompileError, match=r'a\.cu\(2\): "gone.cuh"') as caught:
        translation_unit("main.cu", root)
    assert caught.value.source_line == "a.cu(2)"
    assert str(root) not in str(caught.value)


def test_a_missing_source_is_named(tree):
    with pytest.raises(CompileError, match=r"gone\.cu"):
        translation_unit("gone.cu", tree(main=""))


@pytest.mark.parametrize(
    ("files", "cycle"),
    [
        ({"main": '#include "main.cu"'}, "main.cu -> main.cu"),
        (
            {"main": '#include "a.cu"', "a": '\n#include "b.cu"', "b": '#include "a.cu"'},
            "a.cu -> b.cu -> a.cu",
        ),
    ],
)
def test_a_cycle_is_refused(tree, files, cycle):
    with pytest.raises(CompileError, match=cycle) as caught:
        translation_unit("main.cu", tree(**files))
    assert caught.value.source_line == cycle.split(" -> ")[-2] + "(1)"


def test_text_and_digest_do_not_depend_on_the_folder(tmp_path):
    texts = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "main.cu").write_text("int a;\n")
        texts.append(
            (translation_unit("main.cu", tmp_path / name), source_digest("main.cu", tmp_path / name))
        )
    assert texts[0] == texts[1]


def test_every_kernel_of_the_package_resolves_without_a_path_of_this_machine():
    kernels = sorted(sources_root().rglob("*.cu"))
    assert kernels
    for path in kernels:
        text = translation_unit(path.relative_to(sources_root()).as_posix())
        assert '#include "' not in text
        assert str(sources_root()) not in text


def test_an_installation_without_sources_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("flashactor.compiler.source.PACKAGE_ROOT", tmp_path / "flashactor")
    with pytest.raises(CompileError, match="install flashactor again"):
        sources_root()


def test_installed_sources_are_found_inside_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr("flashactor.compiler.source.PACKAGE_ROOT", tmp_path)
    (tmp_path / "kernels_cu").mkdir()
    assert sources_root() == tmp_path / "kernels_cu"
