"""The fuzz campaign: damaged and hostile input for hours, and what came of it, counted.

    make fuzz                        an hour; the same command goes on where it stopped
    python -m fuzz --seconds 60      with tests/ on PYTHONPATH

A case is drawn from (seed, kind, number), so that every case can be drawn again. What counts as
a fault, of any kind of case:

    traceback      an error that is none of `tandem.errors`, or exit code 70
    hang           a case that does not end within its kind's deadline
    crash          the process is gone: a signal, or no memory left
    wrong code     another exit code than the command's own; an error without its three parts
    made           a refused command left a file, or changed one
    accepted       input that is known to be wrong went through
    refused        input that is known to be right did not
    lost           a setting or a row is not what was given
    differs        bytes that had to be the same are not
    leak           a secret stands in a file or a message
"""
