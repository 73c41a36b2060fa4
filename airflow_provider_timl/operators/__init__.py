"""Operators: one class a verb. ``models`` fills the repository, ``services`` releases, ``batch`` predicts offline.

``task`` holds what all of them do: build the hook, say which task instance asks, end without a retry what no retry can
mend.
"""
