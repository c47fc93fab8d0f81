"""From a kernel's specification to its cubin or PTX: one source string, and NVRTC."""
