"""Planning without arrays: which kernels a request may run, and why not others."""

from flashactor import DType, Fa2FwdRequest, MaskKind, SmArch, explain


def main() -> None:
    """Explain two requests on three architectures."""
    for softcap in (0.0, 50.0):
        for arch in (SmArch.SM80, SmArch.SM90A, SmArch.SM120):
            request = Fa2FwdRequest(arch, DType.BF16, 128, 8, MaskKind.causal(), softcap=softcap)
            explanation = explain(request)
            print(f"{explanation.kernel_name} on {arch.target}")
            for candidate in explanation.candidates:
                verdict = "chosen" if candidate.chosen else "not chosen"
                print(f"  {candidate.implementation} {verdict}: {'; '.join(candidate.reasons)}")
                for spec in candidate.kernels:
                    print(f"    {spec.label}, {spec.shared_bytes // 1024} KiB of shared memory")


if __name__ == "__main__":
    main()
