"""Potentials: energies, forces and stresses of structures, and the elemental references of their energies."""
