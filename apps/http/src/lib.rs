//! The HTTP file service.
#![cfg_attr(not(test), no_std)]
