"""Notifications: somebody is told of records that matter, through channels that are no part of the service.

Each channel has a follower of its own, ``notify-<channel>``, with its own cursor: a dead channel holds up nobody else.
`rules` says which records a channel hears of, `message` what is said about one, `grouping` keeps a storm to a handful
of messages, `notifier` delivers and leaves a record of it, `config` reads the section ``notifications:``.
"""
