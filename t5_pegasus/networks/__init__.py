"""Networks in TensorFlow: their layers, and their weights in and out of files.

A new architecture or format of weights comes in here. `backend` alone imports TensorFlow, tf-keras and bert4keras.
"""
