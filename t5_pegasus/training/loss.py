"""The head's product and its cross entropy, with their gradients, a few tokens at a time."""

from typing import NamedTuple

from ..networks.backend import tf

# Logits that exist at once: enough to keep the matrix product busy, 16 MB in float32.
_LOGITS_AT_ONCE = 2**22


class HeadLoss(NamedTuple):
    """What `head_loss` returns: float32 scalars, and the gradients of `scale * loss`.

    kernel_gradient: None where the kernel does not learn.
    """

    loss: tf.Tensor  # summed cross entropy, in nats
    right: tf.Tensor  # number of labels that have the highest logit
    hidden_gradient: tf.Tensor
    kernel_gradient: tf.Tensor | None


def head_loss(
    hidden: tf.Tensor,
    kernel: tf.Tensor,
    labels: tf.Tensor,
    scale: tf.Tensor,
    label_smoothing: float = 0.0,
    pad_id: int = 0,
    logits_at_once: int = _LOGITS_AT_ONCE,
    static: bool = False,
    learns: bool = True,
    bias: tf.Tensor | None = None,
) -> HeadLoss:
    """Return the cross entropy of `hidden @ kernel + bias` against the labels that are not padding, and its gradients.

    Forward and backward in one pass, since with a large vocabulary the logits of a batch and their gradient would take
    more memory than the rest of the network. Nothing is computed for padding.

    Args:
        hidden: float [batch, target_len, hidden_size], the decoder's output; the products are in its type.
        kernel: float32 [hidden_size, vocab_size]; gradients are summed in its type.
        labels: int32 [batch, target_len].
        scale: float32 scalar, such as 1 / tokens.
        label_smoothing: share of the target's probability spread evenly over the vocabulary.
        pad_id: label that does not count.
        logits_at_once: limit of logits in memory.
        static: compute padding too, for XLA, which must know every shape in advance.
        learns: whether the kernel's gradient is wanted; that of `hidden` always is.
        bias: float32 [vocab_size], which does not learn; none where None.
    """
    size, vocab_size = kernel.shape
    rows, row_labels = tf.reshape(hidden, (-1, size)), tf.reshape(labels, (-1,))
    counts = tf.cast(tf.not_equal(row_labels, pad_id), tf.float32)
    indices = None
    if not static:
        indices = tf.where(counts > 0)[:, 0]
        rows, row_labels, counts = (tf.gather(each, indices) for each in (rows, row_labels, counts))
    # As many chunks as the limit asks for, of equal size; the last is filled up with rows of weight 0.
    total = tf.shape(rows)[0]
    num_chunks = tf.maximum(1, -(-total // max(1, logits_at_once // vocab_size)))
    chunk = -(-total // num_chunks)
    fill = num_chunks * chunk - total
    rows = tf.reshape(tf.pad(rows, ((0, fill), (0, 0))), (num_chunks, chunk, size))
    row_labels, counts = (tf.reshape(tf.pad(each, ((0, fill),)), (num_chunks, chunk)) for each in (row_labels, counts))
    matrix = tf.cast(kernel, hidden.dtype)

    def add_chunk(
        index: tf.Tensor, loss: tf.Tensor, right: tf.Tensor, kernel_gradient: tf.Tensor, gradients: tf.TensorArray
    ) -> tuple[tf.Tensor, ...]:
        x, y, count = rows[index], row_labels[index], counts[index]
        logits = tf.cast(tf.matmul(x, matrix), tf.float32)  # [chunk, vocab_size]
        if bias is not None:
            logits += bias
        losses, slopes = tf.raw_ops.SparseSoftmaxCrossEntropyWithLogits(features=logits, labels=y)
        if label_smoothing:
            # The target is (1 - s) * one_hot + s / vocab_size.
            target = tf.gather(logits, y, axis=1, batch_dims=1)
            losses += label_smoothing * (target - tf.reduce_mean(logits, axis=1))
            spread = tf.one_hot(y, vocab_size, label_smoothing, 0.0)
            slopes += spread - label_smoothing / vocab_size
        best = tf.argmax(logits, axis=1, output_type=tf.int32)
        slopes = tf.cast(slopes * (count * scale)[:, None], hidden.dtype)
        if learns:
            kernel_gradient += tf.cast(tf.matmul(x, slopes, transpose_a=True), kernel.dtype)
        gradients = gradients.write(index, tf.matmul(slopes, matrix, transpose_b=True))
        loss += tf.reduce_sum(losses * count)
        right += tf.reduce_sum(tf.cast(tf.equal(best, y), tf.float32) * count)
        return index + 1, loss, right, kernel_gradient, gradients

    kernel_start = tf.zeros_like(kernel) if learns else tf.zeros(())
    _, loss, right, kernel_gradient, gradients = tf.while_loop(
        lambda index, *_: index < num_chunks,
        add_chunk,
        (0, 0.0, 0.0, kernel_start, tf.TensorArray(hidden.dtype, num_chunks, element_shape=(None, size))),
        parallel_iterations=1,
    )
    hidden_gradient = tf.reshape(gradients.stack(), (-1, size))[:total]
    if indices is not None:
        hidden_gradient = tf.scatter_nd(indices[:, None], hidden_gradient, (tf.size(labels, tf.int64), size))
    return HeadLoss(loss, right, tf.reshape(hidden_gradient, tf.shape(hidden)), kernel_gradient if learns else None)
