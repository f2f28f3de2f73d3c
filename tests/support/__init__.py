"""What the tests stand on; its assertions explain themselves as those of the tests do."""

import sys

if "pytest" in sys.modules:
    sys.modules["pytest"].register_assert_rewrite("tests.support.ledger")
