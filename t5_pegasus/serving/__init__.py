"""The model behind HTTP: SageMaker's contract, an API of our own, and a page to try it on. Needs the extra `serve`."""
