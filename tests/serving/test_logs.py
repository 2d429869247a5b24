"""Whatever is written to standard error while the service runs is JSON, a line each."""

import io
import json
import logging
import sys
import threading
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5_pegasus.errors import DataError
from t5_pegasus.serving import logs
from t5_pegasus.serving.logs import JsonFormatter, OncePerSecond, json_lines, logger


def record(message: str, **fields) -> logging.LogRecord:
    made = logging.LogRecord("x", logging.WARNING, __file__, 1, message, (), None)
    made.fields = fields
    return made


@given(st.text(), st.text())
def test_a_record_is_one_line_of_json_for_every_reader(message, value):
    line = JsonFormatter(log_text=False).format(record(message, value=value))
    assert line.splitlines() == [line]  # it knows U+2028, U+0085 and others as ends of lines
    found = json.loads(line)
    assert (found["event"], found["value"]) == (message.strip(), value)


def test_separators_are_escaped_and_chinese_is_not():
    line = JsonFormatter(log_text=False).format(record("题", value="a\u2028b\u2029c\u0085d\x7f\n"))
    assert '"题"' in line
    assert "a\\u2028b\\u2029c\\u0085d\\u007f\\n" in line


def test_one_record_a_second_passes_and_counts_the_others(monkeypatch):
    now = [10.0]
    monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])
    once = OncePerSecond()
    assert once.filter(record("a"))
    assert not once.filter(record("b"))
    now[0] += 0.9
    assert not once.filter(record("c"))
    now[0] += 0.2
    last = record("d", reason="x")
    assert once.filter(last)
    assert last.fields == {"reason": "x", "left_out": 2}
    now[0] += 5
    last = record("e")
    assert once.filter(last)
    assert last.fields == {}


def test_everything_on_standard_error_is_json(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with json_lines("warning", log_text=False):
        print("a note", "\nand\n\nanother", file=sys.stderr)
        sys.stderr.write("not yet")
        warnings.warn("beware", stacklevel=1)
        logging.getLogger("of.others").error("it failed")
        logging.getLogger("of.others").info("never mind")
        logger.info("too much")
        logs.announce("serving", url="http://x/")
        for _ in range(50):
            logging.getLogger("asyncio").error("no descriptors")
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()
        logger.warning("%d", "no number")  # the log itself fails
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    events = [line["event"] for line in lines]
    assert [event for event in events if "beware" not in event] == [
        "a note",
        "and",
        "another",
        "it failed",
        "serving",
        "no descriptors",
        "exception in a thread",
    ]
    assert sum("UserWarning: beware" in event for event in events) == 1
    assert lines[-1]["exception"] == "ZeroDivisionError"
    assert sys.stderr is stream


def test_errors_of_users_pass_and_others_are_logged(monkeypatch, capsys):
    with pytest.raises(DataError), json_lines("info", log_text=False):
        raise DataError("not this")
    assert capsys.readouterr().err == ""
    with pytest.raises(SystemExit) as caught, json_lines("info", log_text=False):
        raise RuntimeError("the text of a request")
    assert caught.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["exception"] == "RuntimeError"
    assert "the text" not in line
