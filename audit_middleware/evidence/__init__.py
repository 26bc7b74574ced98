"""What is made of a committed log for those who do not trust its operator: tiles, proofs, receipts, and its keys.

Nothing here is on the path of a request. `publish` writes the tlog-tiles layout and `published` reads it back, `prove`
makes inclusion and consistency proofs, `receipts` hands out a service's own, `keys` rotates and retires signing keys,
and `keywatch` checks what the log says of them.
"""
