"""The C extension; everything else stands in pyproject.toml."""

from glob import glob

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "concurrent_map._core",
            sorted(glob("src/core/*.c") + glob("src/ext/*.c")),
            depends=sorted(glob("src/core/*.h") + glob("src/ext/*.h")),
            include_dirs=["src/core", "src/ext"],
            extra_compile_args=["-std=gnu11", "-O2", "-fvisibility=hidden", "-Werror=implicit"],
        )
    ]
)
