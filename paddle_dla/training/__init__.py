"""Training: from a ``Config`` to a run that can be killed at any moment and resumes bit for bit.

``plan``         the position of a run, and its updates: arithmetic only
``datasets``     sources and loaders of training and validation
``assembly``     network, loss, optimizer, schedule and moving average, built from a config
``modes``        which layers are trained, and which are frozen
``step``         one update: forward, backward, clipping, optimizer, average
``nonfinite``    which layer produced the first NaN or infinity
``validation``   the scores of a model and of its average
``state``        captures the complete state of a run, and restores it
``checkpoints``  folders on disk: whole or absent, checked by checksums, rotated
``resuming``     which checkpoint a run resumes from, and what has changed since
``hold``         one run locks a folder, and detects when it is removed or moved
``stopping``     signals that ask a run to end
``trainer``      the run itself
``log``          records and output of a run
"""
