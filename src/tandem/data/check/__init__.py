"""`tandem data check`: what is wrong with data, before a minute of compute is spent."""
