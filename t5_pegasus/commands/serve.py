"""Serve a model over HTTP.

SageMaker's contract (/ping, /invocations), an API with OpenAPI (/v1/titles, /openapi.json), /metrics, and a page at /.
"""

import os
from collections.abc import Sequence

from .. import cli
from ..config import GenerationConfig
from ..decoding.options import PROMPT_OPTIONS, DataConfig
from ..engines.options import LoadConfig
from ..locations import Weights
from ..serving.logs import json_lines
from ..serving.options import ServingConfig, find_model, make_service, options_from_environment


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C; everything accepted by then is answered."""
    parser = cli.make_parser("Serve titles over HTTP, as a SageMaker container and with a page at /.")
    cli.add_flags(parser, LoadConfig, ServingConfig)
    cli.add_flags(parser, DataConfig, only=("max_source_length", "long_text", *PROMPT_OPTIONS))
    cli.add_flags(parser, GenerationConfig, of_model=True)
    parser.set_defaults(**options_from_environment(os.environ))
    flags = parser.parse_args(argv)
    serving = cli.config_from(flags, ServingConfig)
    with json_lines(serving.log_level, serving.log_text):
        usual = Weights.PRETRAINED if flags.adapter or flags.adapters else None
        model = find_model(flags.model_dir, flags.weights, flags.engine, flags.user_dict, flags.run_dir, usual)
        model = model._replace(adapter=flags.adapter, ignore_base_hash=flags.ignore_base_hash)
        generation = GenerationConfig.of_model(model.model_dir, **cli.given(flags, GenerationConfig))
        service = make_service(serving, model, generation, cli.config_from(flags, DataConfig))
        from ..serving.supervisor import serve

        return serve(service)
