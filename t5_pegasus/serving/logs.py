"""Logs as JSON lines. A record has fields (`extra={"fields": …}`), never the text of a request unless asked for."""

import datetime
import json
import logging
import sys
import traceback

logger = logging.getLogger("t5_pegasus.serving")


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
        return json.dumps(line, ensure_ascii=False, default=str)


def set_up(level: str, log_text: bool) -> None:
    """Send our log and uvicorn's to standard error; of uvicorn's only warnings and errors."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(log_text))
    for name in ("t5_pegasus.serving", "uvicorn", "uvicorn.error"):
        each = logging.getLogger(name)
        each.handlers = [handler] if name != "uvicorn.error" else []
        each.propagate = name == "uvicorn.error"
        each.setLevel(level.upper() if name == "t5_pegasus.serving" else max(logging.WARNING, _number(level)))


def _number(level: str) -> int:
    return logging.getLevelNamesMapping()[level.upper()]
