"""Serve a model over HTTP: `python serve.py --model_dir … --weights best_model.weights`.

SageMaker's contract (/ping, /invocations), an API with OpenAPI (/v1/titles, /openapi.json), /metrics, and a page at /.
"""

import os
from collections.abc import Sequence

from t5_pegasus import cli
from t5_pegasus.config import GenerationConfig
from t5_pegasus.decoding.options import DataConfig
from t5_pegasus.engines.options import LoadConfig
from t5_pegasus.errors import OptionError
from t5_pegasus.serving.options import ServingConfig, find_model, make_service, options_from_environment


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C; everything accepted by then is answered."""
    parser = cli.make_parser("Serve titles over HTTP, as a SageMaker container and with a page at /.")
    cli.add_flags(parser, LoadConfig, ServingConfig)
    cli.add_flags(parser, DataConfig, only=("max_source_length", "long_text"))
    cli.add_flags(parser, GenerationConfig)
    parser.set_defaults(**options_from_environment(os.environ))
    flags = parser.parse_args(argv)
    service = make_service(
        cli.config_from(flags, ServingConfig),
        find_model(flags.model_dir, flags.weights, flags.engine, flags.user_dict, flags.run_dir),
        cli.config_from(flags, GenerationConfig),
        cli.config_from(flags, DataConfig),
    )
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise OptionError(f"{error.name} is not installed: pip install fastapi prometheus-client uvicorn") from error
    from t5_pegasus.serving.supervisor import serve

    return serve(service)


if __name__ == "__main__":
    cli.run(main)
