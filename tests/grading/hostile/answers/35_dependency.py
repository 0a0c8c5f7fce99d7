# Needs a package that is not there.
# expect: missing_dependency rest
import a_package_that_nobody_has


def lora_truncate(W, r):
    return a_package_that_nobody_has.truncate(W, r)
