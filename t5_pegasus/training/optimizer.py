"""AdamW in one pass over each weight, and its schedule."""

from typing import Any

from ..networks.backend import keras, tf
from ..networks.checkpoints import named_variables
from .options import LearningConfig

MIN_SCALE = 1e-3  # so that a weight of zeros can change; Adafactor's epsilon 2


class WarmupLinearDecay(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """Learning rate that rises from 0 to `peak` over `warmup_steps`, then falls to 0 at `total_steps`, linearly."""

    def __init__(self, peak: float, warmup_steps: int, total_steps: int) -> None:
        self.peak, self.warmup_steps, self.total_steps = peak, warmup_steps, total_steps

    def __call__(self, step: Any) -> tf.Tensor:
        """Return the rate of a step, counted from 0; that of the first step is above 0."""
        done = tf.cast(step, tf.float32) + 1
        peak_step = max(1, self.warmup_steps)
        up = done / peak_step
        down = (self.total_steps + 1 - done) / max(1, self.total_steps + 1 - peak_step)
        return self.peak * tf.maximum(0.0, tf.minimum(1.0, tf.minimum(up, down)))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {"peak": self.peak, "warmup_steps": self.warmup_steps, "total_steps": self.total_steps}


class AdamW(keras.optimizers.AdamW):  # type: ignore[misc]
    """Keras's AdamW, with one kernel for each weight; Keras's own takes a dozen, each with a temporary of its size.

    With `scale_parameter` the rate is multiplied by the weight's root mean square, as in Adafactor (Shazeer and Stern
    2018, section 8), but not for decay. T5's random weights need it: embeddings start at 1, queries at
    (hidden_size * head_size) ** -0.5, and Adam's steps, all of the size of the rate, are too short for the former or
    too long for the latter.
    """

    def __init__(self, *args: Any, scale_parameter: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.scale_parameter = scale_parameter

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
        """Update a weight and its moments, in place; the gradient is dense."""
        index = self._index_dict[self._var_key(variable)]
        step = tf.cast(self.iterations + 1, tf.float32)
        rate = self.learning_rate
        if self.scale_parameter:
            mean_square = 2 * tf.nn.l2_loss(variable) / variable.shape.num_elements()
            rate = rate * tf.maximum(MIN_SCALE, tf.sqrt(mean_square))
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].handle,
            v=self._velocities[index].handle,
            beta1_power=tf.pow(self.beta_1, step),
            beta2_power=tf.pow(self.beta_2, step),
            lr=rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


def make_optimizer(t5: Any, config: LearningConfig, schedule: WarmupLinearDecay) -> Any:
    """Return AdamW with clipping and, for a float16 model, loss scaling; norms and biases are not decayed.

    It has state for the weights that train (`PegasusT5.trainable`), made at once: a checkpoint restored into an
    optimizer without variables would miss them silently.
    """
    optimizer = AdamW(
        schedule,
        weight_decay=config.weight_decay,
        global_clipnorm=config.max_grad_norm or None,
        jit_compile=False,  # it is one kernel already
        scale_parameter=config.scale_parameter,
    )
    spared = ("scale", "bias")  # position biases, too
    optimizer.exclude_from_weight_decay(
        [variable for name, variable in named_variables(t5).items() if name.endswith(spared)]
    )
    if config.mixed_precision == "float16":
        optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer)
    optimizer.build(t5.trainable)
    return optimizer
