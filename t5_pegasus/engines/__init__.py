"""A network run step by step behind one protocol, `decoding.search.Engine`: a module for each runtime.

Engines run what `networks.description` describes and know no architecture. A new runtime comes in here, and as a row in
`choice.ENGINES`. `onnx` imports no TensorFlow, nor does `choice` until an engine that needs it is chosen.
"""
