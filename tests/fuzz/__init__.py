"""Fuzzing: every function that sees a stranger's bytes, and the machines around them.

material.py    fixed keys and recorded messages, so that an input means the same in every process
mutator.py     seeded mutations that know of length fields and TLVs
target.py      what a target is, and how one is judged
*_targets.py   the targets; `registry.py` has them all by name
campaign.py    mutations by number, for every test run; also replays one input
guided.py      atheris, guided by coverage, for a time (`nox -s fuzz`)
corpus/NAME/   inputs that once reached something new; each test run replays them
"""
