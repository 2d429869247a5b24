"""Whatever writes titles, to be compared: our models, rules, files, services; and the comparison and its report.

A kind of system is a module here and a row in `table.SYSTEMS`. A system gets texts and returns titles, a few texts at a
time; that its titles are kept, that a stopped comparison goes on, and that time and memory are measured is the same
for all of them (`running`).
"""
