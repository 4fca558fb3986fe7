"""Builds the compiled kernel, if there is a C compiler; everything else is in pyproject.toml."""

import os
import platform
import sys

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FOLDER = "swift_bids/network/kernel"
#: Instruction sets of each architecture, and the compiler's flags for them.
TARGETS = {
    "x86_64": {"avx2": ["-mavx2", "-mfma"], "avx512": ["-mavx512f", "-mfma"]},
    "aarch64": {"neon": []},
    "arm64": {"neon": []},  # macOS
}.get(platform.machine(), {})
#: Not -ffast-math: exp2_of needs sums in the order in which they are written.
FLAGS = ["-std=gnu11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
FLAGS += ["-fvisibility=hidden"]
#: Apple's compiler has no OpenMP: the kernel then runs on one thread.
OPENMP = [] if sys.platform == "darwin" else ["-fopenmp"]


class BuildKernel(build_ext):
    """Compiles one file with the flags of its instruction set, which setuptools cannot express."""

    def build_extension(self, extension):
        self.compiler.mkpath(self.build_temp)
        extension.extra_objects = [
            file
            for name, flags in TARGETS.items()
            for file in self.compiler.compile(
                [f"{FOLDER}/{name}.c"], self.build_temp, extra_postargs=FLAGS + OPENMP + flags
            )
        ]
        super().build_extension(extension)


kernel = Extension(
    "swift_bids.network._kernel",
    [f"{FOLDER}/dispatch.c"],
    depends=[f"{FOLDER}/{name}" for name in os.listdir(FOLDER)],
    extra_compile_args=FLAGS + OPENMP,
    extra_link_args=OPENMP,
    libraries=["m"],
    py_limited_api=True,
    optional=True,  # without a compiler, torch runs the network
)
setup(
    ext_modules=[kernel] if TARGETS else [],
    cmdclass={"build_ext": BuildKernel},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if TARGETS else {},
)
