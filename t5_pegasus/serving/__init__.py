"""The model behind HTTP: SageMaker's contract, an API of our own, and a page to try it on. Needs the extra `serve`.

Anything else that serves an `AutoTitle` belongs here. With an exported model no TensorFlow is loaded.
"""
