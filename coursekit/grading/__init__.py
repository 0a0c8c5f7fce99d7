r"""From a folder of submissions to a gradebook, whatever the submissions contain.

submission → gate → stage → box (cells, then questions) → judge → result.json → gradebook. Nothing that runs in the
student's process decides a mark or sees an expected answer.
"""
