"""The one compiled file; all else is in setup.cfg. Without a C compiler it is left out: the same bytes, slower."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "paddle_dla.data._pixels",
            ["paddle_dla/data/_pixels.c"],
            extra_compile_args=["-O3"],
            py_limited_api=True,
            optional=True,
        )
    ],
)
