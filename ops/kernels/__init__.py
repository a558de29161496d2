"""CUDA kernels and what compiles and launches them. See `nas.ops.kernels.runtime`."""
