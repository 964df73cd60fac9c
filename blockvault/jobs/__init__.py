"""Jobs in two phases: how they go on, which run next, and the work itself.

phases      what becomes of a job: begun, ended, failed and tried again, skipped, cancelled, interrupted. Pure
planning    which moments of schedules are due, and which waiting phases may start. Pure
work        one phase of one job, carried out with a vault and noted in the journal
watch       the monitor of a phase: its log, its progress file, a request to cancel, bandwidth
"""
