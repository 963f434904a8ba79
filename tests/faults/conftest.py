from tests.support.proof_fixtures import impatient, make_world

__all__ = ["impatient", "make_world"]
