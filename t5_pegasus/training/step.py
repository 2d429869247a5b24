"""A training step: gradients of one or more batches, on one or more devices, and one update of the weights."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..networks.backend import keras, tf
from ..networks.layers import dropout_seed
from ..networks.pegasus_description import LOGITS_BIAS
from ..networks.t5_description import EMBEDDING, HEAD
from .loss import head_loss
from .options import LearningConfig

# Returns part `n` of `m` equal parts of a batch: sources int32 [rows, source_len], targets int32 [rows, target_len].
Load = Callable[[int, int], tuple[np.ndarray, np.ndarray]]


def split_head(t5: Any) -> tuple[keras.Model, tf.Variable]:
    """Return the network up to its head, and the head's matrix [hidden_size, vocab_size]: what `head_loss` takes."""
    head = t5.layers["Decoder-Output-LM"]
    # The head's first call is in `t5.decoder`, its second in the whole network.
    return keras.Model(t5.model.inputs, head.get_input_at(1)), head.kernel


class TrainStep:
    """Updates the trainable weights of a model by the mean loss over all target tokens of some batches.

    The batches of a step may be many small ones, whose gradients are summed in place: the step is the same as with one
    batch that holds them all. Make it inside the scope of the `tf.distribute` strategy that it is to run on, whose
    devices each take a part of every batch.

    Args:
        t5: a model that gives logits (`build_model(..., with_lm="linear")`). Frozen weights (see `PegasusT5.trainable`)
            get no gradient. The matrix of a tied head adds its gradient to the embedding's and follows it. LoRA on the
            head is without its dropout.
        optimizer: of `make_optimizer`, for this model.
        config: options. Dropout depends on its seed, the number of the batch and the device.
    """

    def __init__(self, t5: Any, optimizer: Any, config: LearningConfig) -> None:
        self._network, self._kernel = split_head(t5)
        self._bias = t5.named_variables.get(LOGITS_BIAS)
        self._tied, self._variables = t5.config.tie_word_embeddings, t5.trainable
        # The weight that takes the head's gradient; its index is None where it is frozen.
        self._head_weight = t5.named_variables[EMBEDDING if self._tied else HEAD]
        self._head_index = next(
            (index for index, variable in enumerate(self._variables) if variable is self._head_weight), None
        )
        # LoRA on the head, whose product `head_loss` computes.
        self._head_lora = None if t5.lora is None else t5.lora.factors.get(HEAD)
        self._optimizer = optimizer
        self._scales_loss = isinstance(optimizer, keras.mixed_precision.LossScaleOptimizer)
        self._config = config
        self._seed = int(np.array(config.seed, np.uint32).view(np.int32))
        self._strategy = tf.distribute.get_strategy()
        self.num_devices = self._strategy.num_replicas_in_sync
        self._parts = self._local_parts()
        # Each device sums its own gradients; the devices exchange them once, at the end of the step.
        self._sums = [
            tf.Variable(
                tf.zeros(variable.shape),
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.SUM,
            )
            for variable in self._variables
            if config.gradient_accumulation_steps > 1
        ]
        self._gradients = (
            tf.function(self._compute_gradients, jit_compile=True) if config.xla else self._compute_gradients
        )
        ids = tf.TensorSpec((None, None), tf.int32)
        batch = ([(ids, ids)] * len(self._parts), tf.TensorSpec((), tf.int32), tf.TensorSpec((), tf.float32))
        self._run_single = tf.function(self._single, input_signature=batch)
        self._run_add = tf.function(self._add, input_signature=batch)
        self._run_apply = tf.function(self._apply_sums, input_signature=())

    def __call__(self, number: int, batches: Sequence[Load], num_tokens: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Take step `number`, counted from 0, and return its loss and accuracy, float32 scalars.

        Args:
            number: of the step; it decides dropout.
            batches: at most `gradient_accumulation_steps`; each returns its part for a device.
            num_tokens: target tokens in all of them on all devices, [CLS] not counted: loss and accuracy are means
                over them.
        """
        together = self._config.gradient_accumulation_steps
        sums = []
        for index, load in enumerate(batches):
            parts = [tuple(map(tf.constant, load(part, self.num_devices))) for part in self._parts]
            run = self._run_single if together == 1 else self._run_add
            sums.append(run(parts, number * together + index, 1 / num_tokens))
        if together > 1:
            self._run_apply()
        loss, right = (tf.add_n(each) / num_tokens for each in zip(*sums, strict=True))
        return loss, right

    def _local_parts(self) -> list[int]:
        """Return which parts of a batch the devices of this process take."""
        parts: list[int] = []
        self._strategy.run(lambda: parts.append(_replica()))
        return sorted(parts)

    def _compute_gradients(
        self, sources: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor, scale: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """Return summed loss and right tokens of a device's part, and the gradients of `scale` times that loss."""
        with dropout_seed(seed):
            with tf.GradientTape() as tape:
                hidden = self._network([sources, targets[:, :-1]], training=True)
            smoothing = self._config.label_smoothing_factor
            kernel, lora = self._kernel, self._head_lora
            if lora is not None:
                kernel = tf.cast(kernel, tf.float32) + tf.matmul(lora.a, lora.b) * lora.scale
            learns = self._head_index is not None or lora is not None
            options = {"static": self._config.xla, "learns": learns, "bias": self._bias}
            head = head_loss(hidden, kernel, targets[:, 1:], scale, smoothing, **options)
            gradients = tape.gradient(hidden, self._variables, output_gradients=head.hidden_gradient)
        if lora is not None:
            slope = head.kernel_gradient * lora.scale
            for variable, gradient in (
                (lora.a, tf.matmul(slope, lora.b, transpose_b=True)),
                (lora.b, tf.matmul(lora.a, slope, transpose_a=True)),
            ):
                gradients[next(n for n, each in enumerate(self._variables) if each is variable)] = gradient
        if self._head_index is not None and not self._tied:
            gradients[self._head_index] = head.kernel_gradient
        # Dense, that of the embedding too: with a row for every occurrence of a token its norm, which clips, is wrong.
        dense = [tf.convert_to_tensor(gradient) for gradient in gradients]
        if self._head_index is not None and self._tied:
            dense[self._head_index] += tf.transpose(head.kernel_gradient)
        return head.loss, head.right, dense

    def _part_gradients(self, parts: Any, number: tf.Tensor, scale: tf.Tensor) -> Any:
        replica = _replica()
        if self._scales_loss:
            scale = self._optimizer.get_scaled_loss(scale)
        sources, targets = parts[self._parts.index(replica)]
        return self._gradients(sources, targets, tf.stack([self._seed, number * self.num_devices + replica]), scale)

    def _apply(self, gradients: list[tf.Tensor]) -> None:
        # No weight changes before the last gradient is there. A weight that is read twice, as by LoRA on the head or by
        # recomputation, could otherwise be read after its update: of equal reads, TensorFlow's optimizer of graphs lets
        # the update wait for one only.
        gradients = tf.tuple(gradients)
        if self._scales_loss:
            gradients = self._optimizer.get_unscaled_gradients(gradients)
        # It sums them over the devices.
        self._optimizer.apply_gradients(zip(gradients, self._variables, strict=True))

    def _follow(self) -> None:
        """Set a tied head to the updated embedding, on every device."""
        if self._tied and self._head_index is not None:
            self._strategy.extended.update(
                self._kernel,
                lambda kernel, embedding: kernel.assign(tf.transpose(embedding)),
                args=(self._head_weight,),
            )

    def _single(self, parts: Any, number: tf.Tensor, scale: tf.Tensor) -> list[tf.Tensor]:
        def step() -> tuple[tf.Tensor, tf.Tensor]:
            loss, right, gradients = self._part_gradients(parts, number, scale)
            self._apply(gradients)
            return loss, right

        sums = self._summed(self._strategy.run(step))
        self._follow()
        return sums

    def _add(self, parts: Any, number: tf.Tensor, scale: tf.Tensor) -> list[tf.Tensor]:
        def add() -> tuple[tf.Tensor, tf.Tensor]:
            loss, right, gradients = self._part_gradients(parts, number, scale)
            for total, gradient in zip(self._sums, gradients, strict=True):
                total.assign_add(gradient)
            return loss, right

        return self._summed(self._strategy.run(add))

    def _apply_sums(self) -> None:
        def apply() -> None:
            self._apply([tf.convert_to_tensor(total) for total in self._sums])
            for total in self._sums:
                total.assign(tf.zeros_like(total))

        self._strategy.run(apply)
        self._follow()

    def _summed(self, values: Any) -> list[tf.Tensor]:
        return [self._strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None) for value in values]


def _replica() -> int:
    return int(tf.get_static_value(tf.distribute.get_replica_context().replica_id_in_sync_group))
