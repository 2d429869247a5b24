"""Fine-tuning: the loop over epochs, the scores after each, and resuming after a stop."""

import dataclasses
import functools
import math
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tqdm

from ..config import require
from ..data.examples import Example
from ..decoding.options import PROMPT_OPTIONS, DataConfig
from ..errors import DataError
from ..locations import BEST_ADAPTER, FINE_TUNED
from ..networks.adapter_files import Record, write_adapter
from ..networks.backend import tf
from ..networks.checkpoints import save_weights
from ..text.prompts import PROMPT_FILE, Prompt, write_prompt
from ..text.protocol import Tokenizer
from ..title import AutoTitle
from .batches import Batch, pair_batches
from .distribution import check_alike, from_chief, is_chief
from .optimizer import WarmupLinearDecay, make_optimizer
from .options import LORA_RATE, STATE_DIR, TrainingConfig
from .pairs import PairSource, count_targets, encode_pairs, load_part
from .state import Row, TrainingState, check_finite, curve_writer, one_line_errors, only_run, plan_of, write_log
from .step import TrainStep
from .validation import Validation, figure_names

LOG_FILE = "training_log.csv"

_NO_BASE = Record()


def epoch_steps(pairs: PairSource, config: TrainingConfig, devices: int, epoch: int) -> list[list[Batch]]:
    """Return the batches of each step of an epoch.

    The order depends on seed and epoch alone, so that a resumed training sees what an uninterrupted one sees.
    """
    random = np.random.default_rng((config.seed, epoch))
    batches = pair_batches(
        pairs.lengths, config.per_device_train_batch_size, config.pad_to_multiple_of, random, devices
    )
    together = config.gradient_accumulation_steps
    return [batches[first : first + together] for first in range(0, len(batches), together)]


class Trainer:
    """Fine-tunes a model on pairs, scoring generated titles after each epoch.

    `best_model.weights` in the output directory has the best epoch's weights, or with LoRA (see `lora_layers.attach`)
    `best_adapter/` its adapter; `prompt.json` beside the weights has the prompt of `data` if there is one,
    `training_log.csv` and `tensorboard/` have the curve, `training_state/` what `resume` needs: all written whole or
    not at all.

    Args:
        t5: a model that gives logits (`build_model(..., with_lm="linear")`), built under `precision(...)`, and inside
            `distributed(...)`, as is everything else.
        tokenizer: of the model's vocabulary.
        config, data: options.
        output_dir: the folder to write to; made if missing.
        base: the name and hash of the weights that LoRA is beside.
    """

    def __init__(
        self,
        t5: Any,
        tokenizer: Tokenizer,
        config: TrainingConfig,
        data: DataConfig,
        output_dir: str | Path,
        base: Record = _NO_BASE,
    ) -> None:
        if positions := t5.config.max_position_embeddings:
            for name in ("max_source_length", "max_target_length"):
                length = getattr(data, name)
                require(length <= positions, f"{name} must be at most {positions}, the positions of the model", length)
        self.t5, self.tokenizer, self.config, self.data = t5, tokenizer, config, data
        self.output_dir, self._base = Path(output_dir), base
        self.title = AutoTitle(t5, tokenizer)
        self._validate = Validation(t5, self.title, tokenizer, config, data)

    def fit(self, train: Sequence[Example], valid: Sequence[Example], resume: bool = False) -> list[Row]:
        """Train and return a row of figures for each epoch, those before a resumed stop included.

        With `resume` training goes on after the last epoch that was finished, or starts from the beginning if there is
        none. Without it, the state and log of an earlier run are removed; its best weights are kept as
        `best_model.weights.previous` once there are new ones.

        Raises DataError for an empty data set, OptionError if it cannot be resumed with other data or batches, or if
        another run is writing the folder, CheckpointError if the state is of another model or a file cannot be written,
        PegasusError if training runs out of memory or diverges, or its workers differ in what they have to do.
        """
        if not train or not valid:
            raise DataError(
                f"training needs at least one pair to train and one to validate, got {len(train)}, {len(valid)}"
            )
        self.output_dir.mkdir(parents=True, exist_ok=True)
        sizes = "--batch_size, --max_source_length or --max_target_length"
        with only_run(self.output_dir / STATE_DIR), one_line_errors(self.output_dir, sizes):
            return self._fit(train, valid, resume)

    def _fit(self, train: Sequence[Example], valid: Sequence[Example], resume: bool) -> list[Row]:
        # The rate is part of the plan, to which a resumed training is compared.
        config = dataclasses.replace(self.config, learning_rate=self._peak_rate())
        pairs = encode_pairs(self.tokenizer, train, self.data)
        plan = {**plan_of(pairs, config), **self._lora_plan()}
        check_alike({**plan, "resume": resume})
        steps = len(epoch_steps(pairs, config, plan["devices"], 1)) * config.num_train_epochs
        schedule = WarmupLinearDecay(config.peak_rate(), math.ceil(steps * config.warmup_ratio), steps)
        optimizer = make_optimizer(self.t5, config, schedule)
        step = TrainStep(self.t5, optimizer, config)
        state = TrainingState(self.output_dir / STATE_DIR, self.t5, optimizer, plan, config.save_total_limit)
        history: list[Row] = []
        if resume and not state.exists:
            print(f"no checkpoint in {state.folder} yet: starting from the beginning", flush=True)
        if resume and state.exists:
            history = state.restore()["history"]
            print(f"going on after epoch {len(history)}", flush=True)
        elif is_chief():
            shutil.rmtree(state.folder, ignore_errors=True)
            (self.output_dir / LOG_FILE).unlink(missing_ok=True)
        with curve_writer(self.output_dir).as_default():
            for epoch in range(len(history) + 1, config.num_train_epochs + 1):
                if self._should_stop(history):
                    print(
                        f"no better {config.metric_for_best_model} in {config.early_stopping_patience} epochs: stopping"
                    )
                    break
                row = {"epoch": epoch, **self._train_epoch(step, pairs, epoch)}
                row |= from_chief(figure_names(config.language), lambda: self._validate(valid))
                best_before = max((past[config.metric_for_best_model] for past in history), default=-1.0)
                history.append(row)
                if not is_chief():
                    continue
                print(", ".join(f"{name} {_shown(value)}" for name, value in row.items()), flush=True)
                for name, value in row.items():
                    tf.summary.scalar(name, value, step=epoch)
                if row[config.metric_for_best_model] > best_before:
                    if best_before < 0:
                        self._keep_previous()
                    self._save_best(row)
                    self._save_prompt()
                write_log(self.output_dir / LOG_FILE, history)
                state.save(epoch, {"history": history})
        return history

    def _peak_rate(self) -> float:
        if self.t5.lora is not None and self.config.learning_rate is None:
            return LORA_RATE
        return self.config.peak_rate(self.t5.from_scratch)

    def _lora_plan(self) -> dict[str, Any]:
        """Return what decides a training with LoRA beside the plan of all, in types that JSON has."""
        if self.t5.lora is None:
            return {}
        settings = dataclasses.asdict(self.t5.lora.plan.config)
        plan = {name: [*value] if isinstance(value, tuple) else value for name, value in settings.items()}
        return {**plan, "base_sha256": self._base.base_sha256}

    @property
    def _best(self) -> str:
        return FINE_TUNED if self.t5.lora is None else BEST_ADAPTER

    def _save_best(self, row: Row) -> None:
        path = self.output_dir / self._best
        if self.t5.lora is None:
            save_weights(self.t5, path)
        else:
            write_adapter(path, self.t5.lora.adapter(), dataclasses.replace(self._base, scores=row))

    def _keep_previous(self) -> None:
        best = self.output_dir / self._best
        previous, prompt = best.with_name(f"{best.name}.previous"), self.output_dir / PROMPT_FILE
        if best.exists():
            if previous.is_dir():
                shutil.rmtree(previous)
            best.replace(previous)
            print(f"the {best.name} of an earlier run is now {previous.name}", file=sys.stderr)
            if prompt.exists() and self.t5.lora is None:
                prompt.replace(prompt.with_name(f"{PROMPT_FILE}.previous"))

    def _save_prompt(self) -> None:
        """Keep the prompt beside the best weights; an empty one, too, which overrides that of the model directory."""
        folder = self.output_dir if self.t5.lora is None else self.output_dir / BEST_ADAPTER
        if any(getattr(self.data, name) is not None for name in PROMPT_OPTIONS):
            write_prompt(folder, self.data.prompt(Prompt()))
        else:
            (folder / PROMPT_FILE).unlink(missing_ok=True)

    def _train_epoch(self, step: TrainStep, pairs: PairSource, epoch: int) -> Row:
        losses, accuracies, start = [], [], time.perf_counter()
        steps = epoch_steps(pairs, self.config, step.num_devices, epoch)
        with tqdm.tqdm(steps, desc=f"epoch {epoch}", unit="step", dynamic_ncols=True) as bar:
            for index, batches in enumerate(bar):
                loads = [functools.partial(load_part, pairs, batch) for batch in batches]
                loss, accuracy = step((epoch - 1) * len(steps) + index, loads, count_targets(pairs, batches))
                losses.append(float(loss))
                check_finite(losses[-1], f"step {len(losses)} of epoch {epoch}", self.config)
                accuracies.append(float(accuracy))
                bar.set_postfix(loss=f"{np.mean(losses):.4f}", refresh=False)
        seconds = time.perf_counter() - start
        return {
            "loss": float(np.mean(losses)),
            "accuracy": float(np.mean(accuracies)),
            "train_runtime": seconds,
            "train_samples_per_second": len(pairs) / seconds,
        }

    def _should_stop(self, history: list[Row]) -> bool:
        patience = self.config.early_stopping_patience
        scores = [row[self.config.metric_for_best_model] for row in history]
        return 0 < patience <= len(scores) - 1 - int(np.argmax(scores)) if scores else False


def _shown(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4f}"
