# `make install` and `make demo` are all a newcomer needs; CONTRIBUTING.md explains the rest.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --no-deps --require-hashes
LOCK := --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --custom-compile-command "make lock"
DEMO := build/demo
PORT ?= 8080

.PHONY: install dev demo serve-demo check test test-slow lint docs lock clean

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
# index. PyPI's torch for Linux has CUDA; for a smaller one without, name PyTorch's index too:
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make bench-deps
bench-deps: .venv-bench/installed

.venv-bench/installed: requirements/bench.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install --quiet --no-deps -r $<
	touch $@

demo: install
	$(BIN)/python finetune.py --model_dir chinese_t5_pegasus_tiny --output_dir $(DEMO) --epochs 20
	$(BIN)/python test.py --model_dir chinese_t5_pegasus_tiny --run_dir $(DEMO) --input_file data/test.tsv
	$(BIN)/python evaluation.py --model_dir chinese_t5_pegasus_tiny --run_dir $(DEMO)
	@echo "A model that has seen 184 texts mostly knows their titles by heart: this shows that everything works, not how"
	@echo "well T5-PEGASUS writes. For that, put the official weights into chinese_t5_pegasus_base/ and fine-tune them."

$(DEMO)/best_model.weights: | .venv/installed
	$(BIN)/python finetune.py --model_dir chinese_t5_pegasus_tiny --output_dir $(DEMO) --epochs 20

serve-demo: .venv/installed-serve $(DEMO)/best_model.weights
	@echo "The page is at http://127.0.0.1:$(PORT)/ and Ctrl-C ends it. From another terminal:"
	@echo
	@echo "    curl --retry 60 --retry-delay 1 --retry-connrefused http://127.0.0.1:$(PORT)/invocations \\"
	@echo "        -H 'Content-Type: application/json' -d '{\"data\": \"一碗卖16元的牛肉面，到底能挣多少？开店七年的老板蒋大勇翻开账本：牛肉4.6元，面和配菜2.1元，房租摊到每碗3.2元，人工3元，水电燃气0.9元，再扣掉包装和损耗，剩下1.8元。如果走外卖，平台抽成后基本不赚钱。蒋大勇没有涨价，而是砍掉了一半菜品，把营业时间改为早六点到下午三点。调整两个月后，净利润反而多了15%。\"}'"
	@echo
	$(BIN)/python serve.py --model_dir chinese_t5_pegasus_tiny --run_dir $(DEMO) --host 127.0.0.1 --port $(PORT)

check: install
	$(BIN)/python -m t5_pegasus

test: dev
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

test-slow: dev
	$(BIN)/python -m pytest -m slow

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# A page for each module, from the docstrings.
docs: dev
	PYTHONPATH=. $(BIN)/python docs/reference.py

# Needs uv (https://docs.astral.sh/uv/). Direct dependencies are in pyproject.toml.
lock:
	uv pip compile $(LOCK) pyproject.toml --extra train -o requirements/base.txt
	uv pip compile $(LOCK) pyproject.toml --extra dev -c requirements/base.txt -o requirements/dev.txt
	uv pip compile $(LOCK) --group build -c requirements/dev.txt -o requirements/build.txt
	uv pip compile $(LOCK) pyproject.toml --extra train -c requirements/dev.txt -o requirements/serve-tensorflow-cpu.txt
	uv pip compile $(LOCK) pyproject.toml --extra gpu -c requirements/dev.txt -o requirements/serve-tensorflow-gpu.txt
	uv pip compile $(LOCK) --group serve-onnx -c requirements/dev.txt -o requirements/serve-onnx-cpu.txt
	uv lock --quiet

clean:
	rm -rf .venv .venv-bench build
