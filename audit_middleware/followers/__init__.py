"""Followers of the committed log: each takes records to one destination, with a durable cursor of its own.

A follower reads the log through `protocols.LogStore`, in order, and never on a request's way. What it has delivered
stands in its cursor (`cursor`); what a destination will never take stands in its dead letters (`deadletters`);
everything else is tried again (`runner`). One module per destination; `destinations` knows their names.
Who is told of records (`notify`) through `channels` is a destination, too.
"""
