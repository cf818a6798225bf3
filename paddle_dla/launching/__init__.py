"""Run several processes as one job: Paddle's launcher starts them, this package watches them and reports failures.

``ends``      the end of a process: with its parent, and its exit code
``heartbeat`` how a process shows that it is alive
``meeting``   where processes wait for each other, without a time limit, until one ends
``one_rank``  stands between the launcher and each process, and records how it ends
``ranks``     the state of each process: rank, log, end; and whether its guardian is running
``verdict``   which process was at fault, in words
``watch``     finds processes that hang
"""
