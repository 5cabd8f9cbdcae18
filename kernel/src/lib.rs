//! Boots the machine and owns its hardware; knows nothing of TCP.
#![cfg_attr(not(test), no_std)]
