//! Deterministic simulation of instances, clients and networks.
