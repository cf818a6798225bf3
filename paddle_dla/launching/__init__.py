"""Several processes as one job: Paddle's launcher starts them, this package watches them and says what went wrong.

``ends``      how a process ends: with its parent, and by which exit code
``heartbeat`` how a process shows that it lives
``meeting``   where processes wait for each other, without a limit but for the end of one
``one_rank``  stands between the launcher and each process, to see how it ends
``ranks``     what is known of each process: its place, its log, its end; and whether its guardian is there
``verdict``   which process was at fault, in words
``watch``     looks for processes that no longer move
"""
