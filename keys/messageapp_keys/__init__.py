"""Key material: the one package that touches ciphers, hashes, signatures and key encapsulation.

Everything here is a pure function of its arguments: no socket, no file, no clock, no trio.
"""
