# `make install` and `make demo` are all a newcomer needs; CONTRIBUTING.md explains the rest.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --no-deps --require-hashes
LOCK := --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --custom-compile-command "make lock"
DEMO := build/demo

.PHONY: install dev demo check test test-slow lint lock clean

install: .venv/installed
dev: .venv/installed-dev

# pip cannot resolve bert4keras beside TensorFlow, so nothing is resolved: the lock is complete (--no-deps). The few
# source distributions in it are built with the locked tools of build.txt, not with whatever is newest.
.venv/built: requirements/build.txt
	@$(PYTHON) -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))" || \
	{ echo "$$($(PYTHON) --version) cannot be used; name another: make PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv .venv
	$(PIP) -r requirements/build.txt
	touch $@

.venv/installed: .venv/built requirements/base.txt
	$(PIP) --no-build-isolation -r requirements/base.txt
	touch $@

.venv/installed-dev: .venv/installed requirements/dev.txt
	$(PIP) --no-build-isolation -r requirements/dev.txt
	touch $@

demo: install
	$(BIN)/python finetune.py --model_dir chinese_t5_pegasus_tiny --output_dir $(DEMO) --epochs 20
	$(BIN)/python test.py --model_dir chinese_t5_pegasus_tiny --output_dir $(DEMO) --input_file data/test.tsv
	$(BIN)/python evaluation.py --model_dir chinese_t5_pegasus_tiny --output_dir $(DEMO)
	@echo "A model that has seen 184 texts mostly knows their titles by heart: this shows that everything works, not how"
	@echo "well T5-PEGASUS writes. For that, put the official weights into chinese_t5_pegasus_base/ and fine-tune them."

check: install
	$(BIN)/python -m t5_pegasus

test: dev
	$(BIN)/python -m pytest -m "not slow"

test-slow: dev
	$(BIN)/python -m pytest -m slow

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Needs uv (https://docs.astral.sh/uv/). Direct dependencies are in pyproject.toml.
lock:
	uv pip compile $(LOCK) pyproject.toml -o requirements/base.txt
	uv pip compile $(LOCK) pyproject.toml --extra dev -c requirements/base.txt -o requirements/dev.txt
	uv pip compile $(LOCK) --group build -c requirements/dev.txt -o requirements/build.txt
	uv lock --quiet

clean:
	rm -rf .venv build
