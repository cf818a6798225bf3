"""Training: from a ``Config`` to a run that can be killed at any moment and goes on as if nothing had happened.

``plan``         where a run stands, and which updates there are: arithmetic alone
``datasets``     sources and loaders of training and validation
``assembly``     network, loss, optimizer, schedule and average, as a config asks for them
``modes``        what is trained, what stays as it is
``step``         one update: forward, backward, clipping, optimizer, average
``nonfinite``    which layer made the first NaN or infinity
``validation``   the scores of a model and of its average
``state``        everything a run must remember, out of its objects and back
``checkpoints``  folders on disk: whole or absent, checked by sums, rotated
``resuming``     which checkpoint a run goes on from, and what has changed since
``hold``         one run holds a folder, and sees when it is taken away
``stopping``     signals that ask a run to end
``trainer``      the run itself
``log``          what is recorded of it
"""
