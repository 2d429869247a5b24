"""The packages of the wheel: the library, and the shipped model as one folder in it.

All else about the package is in setup.cfg and pyproject.toml.
"""

from setuptools import find_packages, setup

MODEL = "chinese_t5_pegasus_tiny"

setup(
    packages=[*find_packages(include=["t5_pegasus*"]), f"t5_pegasus.{MODEL}"],
    package_dir={f"t5_pegasus.{MODEL}": MODEL},
    package_data={
        "t5_pegasus.data": ["page/*"],
        "t5_pegasus.pages": ["*.css"],
        "t5_pegasus.serving": ["page/*"],
        "t5_pegasus.systems": ["page/*", "prompts/*"],
        f"t5_pegasus.{MODEL}": ["*.json", "*.md", "*.safetensors", "*.txt", "exported/*"],
    },
)
