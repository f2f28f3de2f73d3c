"""The tour, and the embedded servers that it and the tests start."""
