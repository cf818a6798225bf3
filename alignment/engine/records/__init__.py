"""Records of runs: tapes of calls, steps of training, arrays by handle, and their files. No framework."""
