"""Named parameters and limits that suites refer to: files of this package, or beside the suite."""
