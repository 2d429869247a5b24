"""Write the library reference to build/docs/: a page for each module, from its docstrings. `make docs` calls it."""

import importlib
import pkgutil
from pathlib import Path

import pdoc

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Render every module of the package."""
    import t5_pegasus

    for name in t5_pegasus.__all__:  # they are loaded when first used, and pdoc looks for what is there
        setattr(t5_pegasus, name, getattr(t5_pegasus, name))
    # pdoc finds the modules of a package itself, but for those that are missing from its `__all__`.
    modules = [
        name
        for _, name, _ in pkgutil.walk_packages(t5_pegasus.__path__, "t5_pegasus.")
        if hasattr(importlib.import_module(name.rpartition(".")[0]), "__all__") and not name.endswith("__main__")
    ]
    pdoc.render.configure(docformat="google")
    pdoc.pdoc("t5_pegasus", *modules, output_directory=ROOT / "build" / "docs")


if __name__ == "__main__":
    main()
