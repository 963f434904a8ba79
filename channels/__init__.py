"""The pure core: types, digests, pricing and the channel state machine.

Nothing in this package performs I/O, reads a clock or draws randomness, and it imports no other package of
ours. Live code, replay after a restart and the tests all run the same functions.
"""
