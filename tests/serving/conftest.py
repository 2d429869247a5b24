"""Fixtures of the service's tests: a model that starts at once, and services over it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from t5_pegasus import AutoTitle
from t5_pegasus.config import GenerationConfig
from t5_pegasus.decoding.options import DataConfig
from t5_pegasus.engines.onnx_export import export_model
from t5_pegasus.serving.app import App
from t5_pegasus.serving.options import Model, ServingConfig, make_service
from tests.serving.processes import Script
from tests.serving.running import Running


@pytest.fixture(scope="session")
def exported_dir(random_t5, random_model_dir, tmp_path_factory) -> Path:
    """Return the random model, exported in int8: what starts at once and needs no TensorFlow."""
    folder = tmp_path_factory.mktemp("serving") / "exported"
    export_model(random_t5, random_model_dir / "vocab.txt", folder, quantize="int8")
    return folder


@pytest.fixture(scope="session")
def title(exported_dir) -> AutoTitle:
    return AutoTitle.load(exported_dir)


@pytest.fixture(scope="module")
def start(exported_dir) -> Iterator[Any]:
    """Return a function that starts a service with options; all are stopped in the end."""
    running = []

    def start(load=None, ready=True, generation=None, **options: Any) -> Running:
        serving = ServingConfig(**options)
        model = Model(exported_dir, None, "auto", None)
        service = make_service(serving, model, generation or GenerationConfig(max_new_tokens=8), DataConfig())
        running.append(Running(App(service, load)))
        if ready:
            running[-1].wait_until_ready()
        return running[-1]

    yield start
    for each in running:
        each.stop()


@pytest.fixture(scope="module")
def service(start) -> Running:
    return start(max_chars=2000, max_texts=8, max_body_bytes=100_000, body_timeout=1.0)


@pytest.fixture
def script() -> Iterator[Any]:
    """Return a function that starts serve.py; what is left running is killed."""
    started = []

    def start_script(*flags: str, **options: Any) -> Script:
        started.append(Script(*flags, **options))
        return started[-1]

    yield start_script
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()
