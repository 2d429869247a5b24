"""The options of what is read: the choices of `long_text` are the rows of its table."""

import pytest

from t5_pegasus.decoding.inputs import LONG_TEXT
from t5_pegasus.decoding.options import DataConfig
from t5_pegasus.errors import OptionError


def test_ways_to_read_a_long_text_are_the_rows_of_their_table():
    for name in LONG_TEXT:
        assert DataConfig(long_text=name).long_text == name
    with pytest.raises(OptionError, match=rf"^long_text must be one of {', '.join(LONG_TEXT)}, got all$"):
        DataConfig.make(long_text="all")
