"""Where a sweep's runs are carried out: each engine has one function, `submit`."""
