"""The result of one run as Markdown, for people; made from the JSON form, so that both say the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.gpu_check.speed import OURS

Row = Mapping[str, Any]


def markdown(data: Row) -> str:
    """The page of a document of ``report.document``."""
    machine, date = data["machine"], data["date"][:10]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    sections = [
        [
            f"# {machine['device']}, {date}",
            "",
            f"- command: `{data['command']}`",
            f"- device: {machine['device']} ({machine['arch']}), driver {machine['driver']}; "
            f"host: {machine['cpu']}",
            f"- versions: {versions}",
        ],
        ["## Correctness", "", *summary(data)],
        [f"- FAILED {each['case']}: {each['problem']}" for each in data["failures"]],
    ]
    if data["emulator"]:
        sections.append(["## Emulator and hardware", "", *emulator_table(data["emulator"])])
    for name in dict.fromkeys(row["pass"] for row in data["attention"]):
        rows = [row for row in data["attention"] if row["pass"] == name]
        title = f"## {name.capitalize()}, batch x seqlen = 16k, TFLOP/s (median)"
        sections.append([title, "", *attention_table(rows)])
    if data["decode"]:
        title = f"## Decode, share of the {data['copy_gb_per_s']:.0f} GB/s of a copy (median)"
        sections.append([title, "", *decode_table(data["decode"])])
    return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"


def summary(data: Row) -> list[str]:
    """What was right, in one line or two."""
    figures = data["correctness"]
    lines = [
        f"{figures['right']} of {figures['cases']} cases right, with {figures['library']} arrays: "
        f"largest error {figures['largest_error_ratio']:.2f} of the low-precision formula's, "
        f"largest lse error {figures['largest_lse_error']:.1e}."
    ]
    if data["cuda_graph"] is not None:
        replayed = "replays correctly" if data["cuda_graph"]["right"] else "does NOT replay correctly"
        lines += ["", f"A captured decode step (out, lse and workspace given) {replayed} as a CUDA graph."]
    return lines


def emulator_table(rows: Sequence[Row]) -> list[str]:
    """For each kind of kernel, how far the emulator's results are from the device's."""
    return _table(
        ["kernel", "cases", "equal", "largest difference"],
        (
            [
                row["kind"],
                str(row["cases"]),
                str(row["equal"]),
                ", ".join(f"{name} {value:.1e}" for name, value in row["largest_difference"].items()),
            ]
            for row in rows
        ),
    )


def attention_table(rows: Sequence[Row]) -> list[str]:
    """One pass; a contender that did not run shows a dash."""
    others = _others(rows)
    names = [OURS, *others]
    return _table(
        ["head_dim", "mask", "seqlen", *names, *(f"ratio to {name}" for name in others)],
        (
            [
                str(row["head_dim"]),
                row["mask"],
                str(row["seqlen"]),
                *(_number(row["tflops"].get(name), ".0f") for name in names),
                *(_number(row["ratio"].get(name), ".2f") for name in others),
            ]
            for row in rows
        ),
    )


def decode_table(rows: Sequence[Row]) -> list[str]:
    """Decode steps; one that did not run shows dashes."""
    others = _others(rows)
    return _table(
        ["context", "batch", "keys", "ms", "GB/s", "share of copy", *(f"ratio to {name}" for name in others)],
        (
            [
                str(row["context"]),
                str(row["batch"]),
                f"pages of {row['page']}" if row["page"] else "rows",
                _number(row["milliseconds"].get(OURS), ".3f"),
                _number(row["gb_per_s"], ".0f"),
                _number(row["share_of_copy"], ".2f"),
                *(_number(row["ratio"].get(name), ".2f") for name in others),
            ]
            for row in rows
        ),
    )


def _others(rows: Sequence[Row]) -> list[str]:
    """Every contender but ours, once."""
    names = dict.fromkeys(name for row in rows for name in (*row["milliseconds"], *row["unavailable"]))
    return [name for name in names if name != OURS]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [_cells(cells) for cells in (header, ["---:"] * len(header), *rows)]


def _cells(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
