"""Networks: what they are made of, their layers in TensorFlow, and their weights in and out of files.

A new architecture or format of weights comes in here. `description` is what engines run and needs no TensorFlow;
`backend` alone imports TensorFlow, tf-keras and bert4keras.
"""
