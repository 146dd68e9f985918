"""Judge crystals with atoms: survival by several potentials, fidelity, novelty. Needs ``crystalgfn[structures]``."""

from crystalgfn.judging.judgement import Judgement, judge
from crystalgfn.judging.sources import Given, read_given

__all__ = ["Given", "Judgement", "judge", "read_given"]
