"""The ``pmml`` runtime: PMML4S in process through JPype.

``document`` reads the file and refuses what no engine shall see; ``encoding`` turns what PMML4S misreads into what it
reads; ``model`` loads it into PMML4S and finds out what it answers; ``batch`` evaluates many rows with one call into
Java; ``engine`` joins them; ``verification`` checks the records that the file brings; ``program`` registers it all.
"""
