//! End-to-end tests in QEMU with real clients.
