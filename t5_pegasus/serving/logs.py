"""Logs as JSON lines. A record has fields (`extra={"fields": …}`), never the text of a request unless asked for."""

import contextlib
import datetime
import io
import json
import logging
import re
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any, TextIO

from ..errors import PegasusError

logger = logging.getLogger("t5_pegasus.serving")
connections_logger = logger.getChild("connections")

# Where whoever connects can cause as many lines as they like.
_LIMITED = (connections_logger.name, "uvicorn.error", "asyncio")

# What JSON allows in a string and readers of lines may take for the end of one, and other controls.
_CONTROLS = re.compile("[\x7f-\x9f\u2028\u2029]")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, event and the record's fields.

    Of an exception it has the type and the lines of code, and with `log_text` the message, which may quote the text.
    """

    def __init__(self, log_text: bool) -> None:
        super().__init__()
        self._log_text = log_text

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line = {
            "time": time.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage().strip(),
            "process": record.process,
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            line["exception"] = type(error).__name__
            line["places"] = [
                f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)
            ]
            if self._log_text:
                line["message"] = str(error)
        text = json.dumps(line, ensure_ascii=False, default=str)
        return _CONTROLS.sub(lambda control: f"\\u{ord(control[0]):04x}", text)


class OncePerSecond(logging.Filter):
    """Lets one record a second pass; the next one says how many have been left out."""

    def __init__(self) -> None:
        super().__init__()
        self._passed, self._left_out = float("-inf"), 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is to be logged."""
        now = time.monotonic()
        if now - self._passed < 1:
            self._left_out += 1
            return False
        if self._left_out:
            record.fields = {**getattr(record, "fields", {}), "left_out": self._left_out}
        self._passed, self._left_out = now, 0
        return True


class _Lines(io.TextIOBase):
    """Logs what is printed to it, line by line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._rest = stream, ""

    def fileno(self) -> int:
        """Return the descriptor of the stream that the log is written to."""
        return self._stream.fileno()

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Log the lines that are complete."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in filter(str.strip, lines):
            announce(line)
        return len(text)


@contextlib.contextmanager
def json_lines(level: str, log_text: bool) -> Iterator[None]:
    """Make every line that this process writes to standard error JSON: all logs, warnings, exceptions, what is printed.

    Of other loggers than ours only warnings and errors are written. An error that is not the user's is logged, and ends
    the process with code 1; those of the user are raised as they are.
    """
    stream, root = sys.stderr, logging.getLogger()
    before = root.handlers, threading.excepthook, logging.raiseExceptions
    levels = root.level, logger.level
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter(log_text))
    root.handlers = [handler]
    root.setLevel(max(logging.WARNING, _number(level)))
    logger.setLevel(level.upper())
    for name in _LIMITED:
        logging.getLogger(name).filters = [OncePerSecond()]
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # what is said of a log that cannot be written would be logged, too
    threading.excepthook = lambda args: logger.critical("exception in a thread", exc_info=args.exc_value)
    sys.stderr = _Lines(stream)
    try:
        yield
    except (PegasusError, OSError):
        raise
    except Exception as error:
        logger.critical("exception", exc_info=error)
        raise SystemExit(1) from error
    finally:
        sys.stderr = stream
        root.handlers, threading.excepthook, logging.raiseExceptions = before
        for each, number in zip((root, logger), levels, strict=True):
            each.setLevel(number)
        for name in _LIMITED:
            logging.getLogger(name).filters = []
        logging.captureWarnings(False)


def announce(event: str, **fields: Any) -> None:
    """Log an event whatever the level: what who has started the service waits for."""
    record = logger.makeRecord(logger.name, logging.INFO, __file__, 0, event, (), None, extra={"fields": fields})
    logger.handle(record)


def _number(level: str) -> int:
    return logging.getLevelNamesMapping()[level.upper()]
