"""What the tests share: a host with a vault and plain copies of every point, ways to damage files, child processes."""
