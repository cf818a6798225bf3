"""Run several processes as one job: Paddle's launcher starts them, this package watches them and names who failed.

``ends``      the end of a process: with its parent, and its exit code
``fault``     which process was at fault, in words
``heartbeat`` how a process shows that it is alive
``master``    whether the meeting address of several machines is free
``meeting``   where processes wait for each other, without a time limit, until one ends
``one_rank``  stands between the launcher and each process: ends it when it hangs, and records how it ends
``ranks``     the record of each process: rank, log, end
"""
