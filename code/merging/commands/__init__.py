"""The command line: commands as data, and explanations read from the files of methods and estimators."""
