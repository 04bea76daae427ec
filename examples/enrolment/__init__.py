"""Enrolment at a university: who is admitted depends on two things at once, the course and the student.

Read `model.py` first, then `__main__.py`, which brings the file and counts.
"""
