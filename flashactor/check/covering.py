"""Some of the kernels, and some of their cases, such that everything is met at least once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

from flashactor.check.case import Case
from flashactor.check.cases import cases_of
from flashactor.kernels.spec import KernelSpec

Item = TypeVar("Item")


def covering_specs(specs: Iterable[KernelSpec]) -> tuple[KernelSpec, ...]:
    """Kernels among these that have everything between them which any of these has.

    That is: of each family's kind every feature, element type and padded head_dim, of forward and of backward
    passes every architecture, and on each architecture every padded head_dim.
    """

    def facts(spec: KernelSpec) -> set[Hashable]:
        kind = spec.family, spec.kind
        return {
            *(("feature", kind, feature) for feature in spec.features),
            ("dtype", kind, spec.dtype),
            ("arch", _pass_of(spec), spec.arch),
            ("head_dims", kind, spec.head_dims),
            ("both", spec.arch, spec.head_dims),
        }

    return _cover(tuple(specs), facts)


def covering_cases(specs: Iterable[KernelSpec]) -> tuple[Case, ...]:
    """Cases of these kernels with every name of a case, of each family's forward and backward passes and of
    its kernels for few rows.

    And with every feature of each kind, every element type, padded head_dim and architecture: Blackwell's PTX
    says the same in other words.
    """

    def facts(case: Case) -> set[Hashable]:
        spec = case.spec
        return {
            ("name", spec.family, _pass_of(spec), "decode" in spec.features, case.name),
            *(("feature", spec.family, spec.kind, feature) for feature in spec.features),
            ("dtype", spec.dtype),
            ("arch", spec.arch),
            ("head_dims", spec.family, spec.head_dims),
        }

    return _cover(tuple(case for spec in specs for case in cases_of(spec)), facts)


def _pass_of(spec: KernelSpec) -> str:
    """A kernel's kind; that of all kernels of a backward pass is one."""
    return spec.kind.partition("_")[0]


def _cover(items: Sequence[Item], facts_of: Callable[[Item], set[Hashable]]) -> tuple[Item, ...]:
    """Greedily: again and again the item with most facts that are new, of equals the first one.

    The same items in the same order always give the same cover, in the order of the items.
    """
    facts = [facts_of(item) for item in items]
    missing: set[Hashable] = set().union(*facts)
    chosen = []
    while missing:
        best = max(range(len(items)), key=lambda index: len(facts[index] & missing))
        chosen.append(best)
        missing -= facts[best]
    return tuple(items[index] for index in sorted(chosen))
