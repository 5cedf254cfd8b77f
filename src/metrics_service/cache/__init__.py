"""What is remembered for a while: in the process, and in Redis where there is one."""
