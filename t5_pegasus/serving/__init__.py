"""The model behind HTTP: SageMaker's contract, an API of our own, and a page to try it on. Needs the extra `serve`.

Whatever else serves an `AutoTitle` comes in here. With an exported model no TensorFlow is loaded.
"""
