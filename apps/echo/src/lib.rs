//! The echo service.
#![cfg_attr(not(test), no_std)]
