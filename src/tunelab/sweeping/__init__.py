"""Many runs of one command: which jobs there are, which of them are to run, and the processes that run them."""
