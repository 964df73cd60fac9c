"""The verbs: one file each. `plan_*` has no effect; what carries a plan out says so in its name."""
