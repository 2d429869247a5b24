"""The options of scoring."""

import pytest

from t5_pegasus.errors import OptionError
from t5_pegasus.metrics import LANGUAGES
from t5_pegasus.metrics.options import ScoringConfig


def test_a_language_is_a_row_of_the_table():
    assert ScoringConfig().language == "zh"
    for language in LANGUAGES:
        assert ScoringConfig.make(language=language).language == language
    with pytest.raises(OptionError, match="language must be one of zh, en, got fr"):
        ScoringConfig(language="fr")
