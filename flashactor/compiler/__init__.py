"""From a kernel's specification to its cubin: one source string, NVRTC, a cache on disk and in memory."""
