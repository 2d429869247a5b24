"""Write the library reference to build/docs/: a page for each module, from its docstrings. `make docs` calls it."""

import importlib
import pkgutil
from pathlib import Path

import pdoc

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Render every module of the package."""
    # pdoc finds the modules of a package itself, but for those that are missing from its `__all__`.
    modules = []
    for _, name, _ in pkgutil.walk_packages([str(ROOT / "t5_pegasus")], "t5_pegasus."):
        package = importlib.import_module(name.rpartition(".")[0])
        if hasattr(package, "__all__") and not name.endswith("__main__"):
            modules.append(name)
            for public in package.__all__:  # loaded when first used, and pdoc looks for what is there
                setattr(package, public, getattr(package, public))
    pdoc.render.configure(docformat="google")
    pdoc.pdoc("t5_pegasus", *modules, output_directory=ROOT / "build" / "docs")


if __name__ == "__main__":
    main()
