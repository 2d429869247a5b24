"""Systems at work: titles that are kept are taken, the others written, a few texts at a time, with time and memory.

A system that runs here has a process of its own, so that its memory is its own, and a crash ends nothing but it.
"""

import dataclasses
import hashlib
import json
import multiprocessing
import multiprocessing.connection
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tqdm

from ..errors import PegasusError
from ..version import __version__
from .protocol import System, Text, Written
from .spec import Spec
from .table import make_system
from .titles import Chunk, TitleFile


@dataclasses.dataclass(frozen=True)
class Run:
    """What a system has written.

    Attributes:
        written: a title for each text, in order.
        seconds: of wall time for each text, loading left out; None if they were not written here.
        peak_bytes: the most memory that the system's process had; None if it has none of its own.
        cost: of all titles; None if no price is known.
        asked_length: the characters or words that titles were asked to have at most; None if that was not said.
    """

    written: list[Written]
    seconds: float | None
    peak_bytes: int | None
    cost: float | None
    asked_length: int | None = None

    @property
    def titles(self) -> list[str]:
        """The titles."""
        return [each.title for each in self.written]


def title_file(system: System, texts: Sequence[Text], folder: Path) -> TitleFile:
    """Return the file of a system's titles of these texts."""
    identity = system.identity()
    # An oracle's titles depend on the references; others have them in the hash for nothing.
    content = [[text.content, *text.references] if identity["kind"] == "oracle" else text.content for text in texts]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    return TitleFile(folder, {"system": identity, "texts": digest, "version": __version__})


def run_system(
    spec: Spec, system: System, texts: Sequence[Text], folder: Path, isolate: bool = True, progress: bool = True
) -> Run:
    """Return what a system writes for each text, after keeping it in `folder`.

    Args:
        spec: of the system, from which a process makes it anew.
        system: made of the spec.
        texts: in their order.
        folder: of the files with titles.
        isolate: whether a system that runs here gets a process of its own.
        progress: show a progress bar on standard error.

    Raises PegasusError, with the system's name, where the system cannot write; what it wrote before is kept.
    """
    file = title_file(system, texts, folder)
    chunks = file.read()
    done = sum(len(chunk.written) for chunk in chunks)
    if done < len(texts):
        try:
            if isolate and system.runs_here:
                _run_apart(spec, texts, folder, progress)
            else:
                write_titles(spec.name, system, texts, file, progress)
        except PegasusError as error:
            raise type(error)(f"{spec.name}: {error}") from error
        chunks = file.read()
    done = sum(len(chunk.written) for chunk in chunks)
    if done < len(texts):
        raise PegasusError(f"{spec.name}: there are {done} titles of {len(texts)} in {file.path}: run it again")
    written = [each for chunk in chunks for each in chunk.written][: len(texts)]
    seconds = sum(chunk.seconds for chunk in chunks) / len(texts) if _is_timed(system) else None
    peaks = [chunk.peak_bytes for chunk in chunks if chunk.peak_bytes is not None]
    return Run(written, seconds, max(peaks, default=None), system.cost(written), system.asked_length)


def write_titles(name: str, system: System, texts: Sequence[Text], file: TitleFile, progress: bool = True) -> None:
    """Write the titles that a file lacks, chunk by chunk, and append them to it."""
    done = sum(len(chunk.written) for chunk in file.read())
    with tqdm.tqdm(total=len(texts), initial=done, desc=name, unit="title", disable=not progress) as bar:
        if done < len(texts) and system.runs_here:
            system.write(texts[:1], 0)  # loads what is loaded at the first text, which is not counted
        for start in range(done, len(texts), system.chunk_size):
            chosen = texts[start : start + system.chunk_size]
            began = time.perf_counter()
            written = system.write(chosen, start)
            seconds = time.perf_counter() - began
            file.append(Chunk(written, seconds, peak_memory() if system.runs_here else None))
            bar.update(len(chosen))


def peak_memory() -> int:
    """Return the most bytes of memory that this process has had since it was started (resident set size)."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):  # not ru_maxrss, which a child inherits from its parent
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _is_timed(system: System) -> bool:
    return bool(system.identity()["kind"] != "predictions")


def _run_apart(spec: Spec, texts: Sequence[Text], folder: Path, progress: bool) -> None:
    """Run a system in a process of its own; raises what it raises, and PegasusError if it dies."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    # The texts are no argument: of a process that dies before it reads more of these than a pipe holds, `start` waits
    # for ever.
    process = context.Process(target=_work, args=(theirs, spec, folder, progress), daemon=True)
    process.start()
    theirs.close()
    try:
        ours.send(list(texts))
        error = ours.recv()
        process.join()
    except (EOFError, ConnectionError):
        process.join()
        code = process.exitcode or 0
        reason = f"signal {-code}" if code < 0 else f"code {code}"
        raise PegasusError(f"the system's process ended with {reason}, perhaps for lack of memory") from None
    finally:
        process.terminate()  # where Ctrl-C came first
        process.join()
    if error is not None:
        raise error


def _work(parent: multiprocessing.connection.Connection, spec: Spec, folder: Path, progress: bool) -> None:
    """Write titles in the process of a system, and tell the parent of an error of the user, or None."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, who ends this process
    error: Any = None
    texts: list[Text] = parent.recv()
    try:
        system = make_system(spec)
        write_titles(spec.name, system, texts, title_file(system, texts, folder), progress)
    except (PegasusError, OSError) as caught:
        error = caught
    parent.send(error)
