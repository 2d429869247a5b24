"""The flags of loading a model: what `AutoTitle.load` takes, under their names of old too."""

import inspect

import pytest

from t5_pegasus import AutoTitle, cli
from t5_pegasus.engines.choice import ENGINES
from t5_pegasus.engines.options import LoadConfig
from t5_pegasus.errors import OptionError


def parse(*flags):
    parser = cli.make_parser("A script.")
    cli.add_flags(parser, LoadConfig)
    return cli.config_from(parser.parse_args(flags), LoadConfig)


def test_an_engine_that_there_is_not_is_refused():
    with pytest.raises(OptionError, match="invalid choice: 'tpu'"):
        parse("--engine", "tpu")
    with pytest.raises(OptionError, match=rf"^engine must be one of auto, {', '.join(ENGINES)}, got tpu$"):
        LoadConfig(engine="tpu")


def test_the_folder_of_a_run_has_two_names():
    assert parse("--run_dir", "run") == parse("--output_dir", "run") == LoadConfig(run_dir="run")


def test_defaults_are_those_of_the_library():
    parameters = inspect.signature(AutoTitle.load).parameters
    config = parse()
    assert parameters["weights"].default is config.weights is None
    assert parameters["output_dir"].default == config.run_dir
    assert (parameters["engine"].default, parameters["user_dict"].default) == (config.engine, config.user_dict)
