"""Planning without arrays: which kernel a request would run, and why not another."""

from flashactor import DType, Fa2FwdRequest, MaskKind, SmArch, explain


def main() -> None:
    """Explain two requests on three architectures."""
    for mask in (MaskKind.causal(), MaskKind.sliding_causal(4096)):
        for arch in (SmArch.SM80, SmArch.SM90A, SmArch.SM120):
            explanation = explain(Fa2FwdRequest(arch, DType.BF16, 128, 8, mask))
            print(f"{explanation.kernel_name} on {arch.target}")
            for candidate in explanation.candidates:
                kernel = f" ({candidate.spec.label})" if candidate.spec else ""
                verdict = "chosen" if candidate.chosen else "not chosen"
                print(f"  {candidate.implementation}{kernel} {verdict}: {'; '.join(candidate.reasons)}")


if __name__ == "__main__":
    main()
