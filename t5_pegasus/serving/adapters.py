"""The adapters of a service are the folders in a folder, by their names, from when they are there to when they go."""

from collections.abc import Container
from pathlib import Path

from ..errors import OptionError, PegasusError
from ..networks.adapter_files import CONFIG, WEIGHTS
from ..title import AutoTitle
from .logs import logger

SECONDS_BETWEEN_LOOKS = 1.0

# What a folder's adapter is known by: time and size of its files.
_Stamp = tuple[tuple[int, int], ...]


class AdapterFolder:
    """Keeps the adapters of a model those of a folder. Its methods are called by the thread that owns the model.

    An adapter that cannot be loaded is said in the log, once, and tried again when its files change: it may be being
    copied. One whose folder is gone is no longer to be asked for, and is removed when no text waits for it.

    Args:
        folder: of the service; None for a service that has none.
        ignore_base_hash: take adapters of other weights.
    """

    def __init__(self, folder: Path | None, ignore_base_hash: bool = False) -> None:
        self._folder, self._ignore_base_hash = folder, ignore_base_hash
        self._stamps: dict[str, _Stamp] = {}

    @property
    def is_watched(self) -> bool:
        """Return whether there is a folder to look at."""
        return self._folder is not None

    def load_new(self, title: AutoTitle) -> None:
        """Load what is new or has changed."""
        for name, stamp in self._look().items():
            if self._stamps.get(name) != stamp:
                self._stamps[name] = stamp
                self._load(title, name)

    def remove_gone(self, title: AutoTitle, in_use: Container[str]) -> None:
        """Remove what is gone and not in use."""
        gone = set(self._stamps) - set(self._look())
        for name in gone:
            if name not in in_use:
                del self._stamps[name]
                if name in title.adapters:
                    title.remove_adapter(name)
                    logger.info("adapter removed", extra={"fields": {"adapter": name}})

    def _load(self, title: AutoTitle, name: str) -> None:
        try:
            title.add_adapter(name, Path(self._folder or "", name), self._ignore_base_hash)
        except PegasusError as error:
            logger.warning("adapter not loaded", extra={"fields": {"adapter": name, "reason": str(error)}})
            return
        logger.info("adapter loaded", extra={"fields": {"adapter": name}})

    def names(self, title: AutoTitle) -> tuple[str, ...]:
        """Return the adapters that can be asked for now."""
        found = self._look()
        return tuple(name for name in title.adapters if name in found or name not in self._stamps)

    def _look(self) -> dict[str, _Stamp]:
        if self._folder is None:
            return {}
        stamps = {}
        try:
            for path in sorted(self._folder.iterdir()):
                stats = [(path / name).stat() for name in (CONFIG, WEIGHTS) if (path / name).is_file()]
                if len(stats) == 2:
                    stamps[path.name] = tuple((each.st_mtime_ns, each.st_size) for each in stats)
        except OSError as error:  # such as of a folder that is gone between the two
            logger.warning("adapters cannot be listed", extra={"fields": {"reason": str(error)}})
            return dict(self._stamps)
        return stamps


def check_folder(path: str | None) -> Path | None:
    """Return the folder of adapters. Raises OptionError if it is not there."""
    if path is not None and not Path(path).is_dir():
        raise OptionError(f"adapters must be a folder, got {path}")
    return None if path is None else Path(path)
