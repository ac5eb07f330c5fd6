"""One page on one run or several, for people: everything on it is read from the runs' folders."""
